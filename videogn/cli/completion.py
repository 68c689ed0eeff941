"""Print a completion script for a shell: commands, options, configs, keys and their values.

bash: `source <(python run.py completion bash)` in ~/.bashrc; it completes `python run.py` too.
zsh: `videogn completion zsh > DIR/_videogn`, DIR being one of $fpath.
fish: `videogn completion fish > ~/.config/fish/completions/videogn.fish`.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("shell", choices=["bash", "zsh", "fish"], help="whose script to print")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from videogn.cli.shells import bash, fish, zsh
    from videogn.cli.vocabulary import vocabulary

    scripts = {"bash": bash, "zsh": zsh, "fish": fish}
    print(scripts[args.shell](vocabulary()), end="")
