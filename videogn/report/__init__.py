"""What runs reached, beside what the paper did."""
