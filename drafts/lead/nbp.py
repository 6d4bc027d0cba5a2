"""Patch a notebook: edits by cell number of the ORIGINAL notebook."""
import nbformat, re, io, tokenize, pathlib
ROOT = pathlib.Path("trees/lead")
SP = [("colour", "color"), ("Colour", "Color"), ("neighbour", "neighbor"), ("Neighbour", "Neighbor"), ("behaviour", "behavior"), ("favour", "favor"),
      ("labelled", "labeled"), ("Labelled", "Labeled"), ("towards", "toward"), ("licence", "license"), ("modelling", "modeling"), ("centred", "centered"), ("centre", "center"), ("Centre", "Center"), ("centring", "centering"),
      ("grey", "gray"), ("Grey", "Gray"), ("whilst", "while"), ("judgement", "judgment"), ("catalogue", "catalog"), ("mislabelled", "mislabeled"), ("cancelled", "canceled")]
ISE = "recogn normal optim initial general standard memor minim maxim synchron quant equal summar visual organ regular character util final vector solar real special capital crystal polar serial token penal emphas apolog local random discret linear factor parallel categor stabil".split()
def american(s):
    for a, b in SP: s = s.replace(a, b)
    return re.sub(r"\b((?:\w*?)(?:" + "|".join(ISE) + r"))is(e|ed|es|er|ers|ing|ation|ations|able)\b", lambda m: m[1] + "iz" + m[2], s, flags=re.I)
def american_code(src):
    """Only comments and strings (not dict keys of results, nor colors)."""
    try: toks = list(tokenize.generate_tokens(io.StringIO(src).readline))
    except Exception: return src
    lines = src.splitlines(True)
    for t in reversed(toks):
        if t.type in (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)) and " " in t.string:
            (r0, c0), (r1, c1) = t.start, t.end
            text = american(t.string)
            if r0 == r1: lines[r0-1] = lines[r0-1][:c0] + text + lines[r0-1][c1:]
            elif text != t.string:
                first, last = lines[r0-1][:c0], lines[r1-1][c1:]
                lines[r0-1:r1] = (first + text + last).splitlines(True)
    return "".join(lines)
class NB:
    def __init__(self, path):
        self.path = ROOT / path; self.nb = nbformat.read(self.path, 4); self.old = list(self.nb.cells)
        for c in self.old:
            c.source = american(c.source) if c.cell_type == "markdown" else american_code(c.source)
            if c.cell_type == "markdown": c.source = c.source.replace("catalog.py", "catalogue.py")
    def sub(self, i, old, new, count=1):
        s = self.old[i].source; assert s.count(old) == count, (i, old, s.count(old), s[:300]); self.old[i].source = s.replace(old, new)
    def set(self, i, text): self.old[i].source = text.strip("\n")
    def after(self, i, *cells):
        at = next(k for k, c in enumerate(self.nb.cells) if c is self.old[i]) + 1
        self.nb.cells[at:at] = [self.make(c) for c in cells]
    def before(self, i, *cells):
        at = next(k for k, c in enumerate(self.nb.cells) if c is self.old[i])
        self.nb.cells[at:at] = [self.make(c) for c in cells]
    def drop(self, *numbers): self.nb.cells = [c for c in self.nb.cells if not any(c is self.old[i] for i in numbers)]
    def move(self, i, after): c = self.old[i]; self.nb.cells = [x for x in self.nb.cells if x is not c]; at = next(k for k, x in enumerate(self.nb.cells) if x is self.old[after]) + 1; self.nb.cells.insert(at, c)
    def make(self, spec):
        kind, text, *tags = spec if isinstance(spec, tuple) else ("md", spec)
        text = text.strip("\n")
        if kind == "md": return nbformat.v4.new_markdown_cell(text)
        if kind == "copy":
            path, first = text.split("|"); src = nbformat.read(ROOT / path, 4)
            hit = [x for x in src.cells if x.source.splitlines() and x.source.splitlines()[0].strip() == first]; assert len(hit) == 1
            c = nbformat.v4.new_code_cell(hit[0].source); tags = ["hide-input"]
        else: c = nbformat.v4.new_code_cell(text)
        if tags: c.metadata["tags"] = list(tags)
        if "hide-input" in tags: c.metadata["jupyter"] = {"source_hidden": True}; c.metadata["cellView"] = "form"
        return c
    def save(self):
        for c in self.nb.cells:
            if c.cell_type == "code": c.outputs = []; c.execution_count = None
        nbformat.validate(self.nb); nbformat.write(self.nb, self.path)
        p = self.path.relative_to(ROOT); f = ROOT / "tests/first_form.txt"
        f.write_text("".join(l for l in f.read_text().splitlines(True) if l.strip() != str(p)))
        words = sum(len(c.source.split()) for c in self.nb.cells if c.cell_type == "markdown"); print(p, len(self.nb.cells), "cells", words, "words")
DRAW = ("copy", "Chapter01/Back_propagation.ipynb|# @title Drawing helpers")
