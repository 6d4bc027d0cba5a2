import runpy, sys
for g in sys.argv[1:]:
    m = runpy.run_path(f"scratch/h12/f/{g}.py")
    for nb, fs in m["F"].items():
        import json
        cells = ["".join(c["source"]) for c in json.load(open(f"./Chapter{m['CHAPTER']}/{nb}.ipynb"))["cells"] if c["cell_type"]=="code"]
        for name, pairs, run in fs:
            for old, new in pairs:
                n = sum(s.count(old) for s in cells)
                if n != 1: print(nb, "|", name, n, repr(old[:80]))
