"""schem.py NB…: runs imports, drawing helpers and the schematics; one contact sheet."""
import sys, nbformat, matplotlib; matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image
import io
pics = []
for path in sys.argv[2:]:
    nb = nbformat.read("trees/lead/" + path, 4); ns = {}
    for c in nb.cells:
        if c.cell_type != "code": continue
        first = c.source.split("\n")[0]
        if "import matplotlib" in c.source: exec("\n".join(l for l in c.source.split("\n") if not l.startswith("%")), ns)
        elif "parameters" in c.metadata.get("tags", []) or first == "# @title Drawing helpers": exec(c.source, ns)
        elif first.startswith("# @title Schematic"):
            ns["plt"].show = lambda: None
            exec(c.source, ns); b = io.BytesIO(); plt.gcf().savefig(b, dpi=110); plt.close("all"); pics.append(Image.open(b).convert("RGB"))
W = max(p.width for p in pics); H = sum(p.height + 12 for p in pics)
sheet = Image.new("RGB", (W, H), "gray"); y = 0
for p in pics: sheet.paste(p, (0, y)); y += p.height + 12
sheet.save(sys.argv[1])
