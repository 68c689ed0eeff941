"""A folder of runs with everything that a page shows, and names that try to be markup."""

from __future__ import annotations

import json
from pathlib import Path

from tests.report.run_folders import write_curve, write_predictions, write_run
from tests.videos import write_numbered

EVIL = "</script><script>document.title='taken'</script>"
EVIL_RUN = "<b onclick=alert(1)>&'\""

LABELS = ["clap", "jump", EVIL]
# (path, label, BN's prediction, probability, GN's prediction, probability)
ANSWERS = [
    ("v0.mp4", "clap", "clap", 0.9, "clap", 0.8),
    ("v1.mp4", "clap", "jump", 0.7, "clap", 0.6),
    ("v2.mp4", "jump", "jump", 0.6, "jump", 0.7),
    ("v3.mp4", "jump", "clap", 0.8, EVIL, 0.5),
    ("gone.mp4", EVIL, EVIL, 0.5, "jump", 0.4),
    ("cut.mp4", EVIL, "", 0.0, "", 0.0),
]


def write_runs(top: Path) -> Path:
    """Writes a data root and four runs of it, one unfinished, one a test, under `top/runs`."""
    root = top / "mine"
    root.mkdir(parents=True)
    for number in range(4):
        write_numbered(root / f"v{number}.mp4", 12)
    rows = "".join(f"{path},{LABELS.index(label)}\n" for path, label, *_ in ANSWERS)
    (root / "val.csv").write_text(f"path,label\n{rows}")
    (root / "classes.txt").write_text("\n".join(LABELS))
    runs = top / "runs"
    of_bn = [(path, label, said, p) for path, label, said, p, _, _ in ANSWERS]
    of_gn = [(path, label, said, p) for path, label, _, _, said, p in ANSWERS]
    failed = [{"path": "cut.mp4", "reason": f"moov {EVIL}"}]
    test = {"num_videos": 6, "num_decoded": 5, "failed": failed, "top5": 83.3}
    common = [f"data.root={root}", "optim.epochs=3"]
    bn = write_run(runs / "bn", *common, experiment="i3d_bn_32f", age=9, top1=50.0, **test)
    gn = write_run(runs / EVIL_RUN, *common, f"model.init={EVIL}", age=8, top1=50.0, **test)
    three = write_run(gn / "test_last", *common, age=7, top1=33.3, **test, protocol="3 crops")
    (three / "env.json").unlink()
    unfinished = write_run(runs / "going", *common, "seed=1", experiment="i3d_bn_32f")
    (unfinished / "test.json").unlink()
    for folder, answers in ((bn, of_bn), (gn, of_gn), (three, of_gn)):
        write_predictions(folder, answers)
    write_curve(bn, [80.0, 60.0, 55.0])
    write_curve(gn, [70.0, 50.0, 45.0])
    write_curve(unfinished, [82.0, 64.0])
    bad = {"row": 3, "path": "v9.mp4", "reason": f"truncated {EVIL}"}
    (bn / "bad_samples.jsonl").write_text(json.dumps(bad) + "\n")
    (runs / "broken").mkdir()
    (runs / "broken" / "test.json").write_text("{}")
    return runs
