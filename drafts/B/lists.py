"""All faults: {(chapter, notebook): [(name, [(old, new), …]), …]}; without those that earlier runs planted and caught."""
import runpy, re
from pathlib import Path
ALL = {}
for g in "abcdeg":
    m = runpy.run_path(f"scratch/h12/f/{g}.py")
    for nb, fs in m["F"].items():
        ALL.setdefault((m["CHAPTER"], nb), []).extend((n, p) for n, p, _ in fs)
m = {}; exec(open("scratch/h13/faultlist.py").read(), m)
for nb, (ch, test, fs) in m["F"].items():
    ALL.setdefault((ch[-2:], nb), []).extend((t[0], list(zip(t[1::2], t[2::2]))) for t in fs)
src = open("scratch/ch08b/faults.py").read(); F8 = {}
exec(src[src.index("F = {"):src.index("\n}\n", src.index("F = {")) + 3] if "\n}\n" in src else src[src.index("F = {"):src.index("]}\n") + 3], F8)
for nb, fs in F8["F"].items():
    ALL.setdefault(("08", nb), []).extend((n, [(o, w)]) for n, o, w, _ in fs)
src = open("scratch/ch18/faults.py").read(); F18 = {}
exec(src[src.index("F = {"):src.index("\n}\n") + 3], F18)
for nb in ("quantization", "Deploying_in_a_container"):
    ALL.setdefault(("18", nb), []).extend((n, [p]) for n, p in F18["F"][nb].items())
extra = Path("scratch/B/extra.py")
if extra.exists():
    for key, fs in runpy.run_path(str(extra))["F"].items(): ALL.setdefault(key, []).extend(fs)
import json as _json
for _k, _v in _json.load(open("scratch/h14/faults.json")).items():
    _ch, _nb = _v["notebook"][7:].split("/"); ALL.setdefault((_ch, _nb[:-6]), []).extend((n, [(o, w)]) for n, o, w in _v["faults"])
