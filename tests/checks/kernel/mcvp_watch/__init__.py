"""Watches a notebook from inside its kernel: where rows go, how loops train, what is drawn and reported.

`start()` before the first cell, `finish()` after the last, which returns what was found and what was told as JSON.
Nothing of it stands in the notebook's namespace, and what is watched computes what it would compute unwatched.
"""
import json
import platform
import re
import sys
import traceback

WATCH = None


class Watch:
    def __init__(self, shell, shake=0):
        from .loops import Loops
        from .rows import Rows

        self.shell, self.shake = shell, shake
        self.cell = 0
        self.findings, self.once = {}, set()
        self.told = []  # (cell, kind, what): prints, tables, figures, in order
        self.errors = []
        self.rows, self.loops = Rows(self), Loops(self)
        self.known = set(shell.user_ns)
        self.over = False
        self.source = ""  # of this cell
        self.written = []  # by this cell, so far
        self.since = {}  # name -> (what it holds, the cell that gave it that)
        self.sources = None  # what the notebook's names hold, once this cell shows a figure

    def stop(self):
        """The last cell has run: what follows is not watched."""
        self.over = True
        self.shell.events.unregister("pre_run_cell", self.before_cell)
        self.shell.events.unregister("post_run_cell", self.after_cell)
        self.rows.stop()
        self.loops.stop()

    def find(self, check, text, key):
        """Something is wrong; the same in the same cell is told once."""
        if (check, *key) not in self.once:
            self.findings.setdefault((self.cell, check, *key), text)
            if key[0] in ("name", "shared", "label"):
                self.once.add((check, *key))

    def broke(self, error):
        """The watching itself failed: the notebook goes on, and the run says so."""
        if len(self.errors) < 5:
            self.errors.append("".join(traceback.format_exception(error))[-700:])

    def names(self):
        """The notebook's own names and their values."""
        return {name: value for name, value in list(self.shell.user_ns.items())
                if name not in self.known and not name.startswith("_")}

    # --- events

    def before_cell(self, info):
        self.cell += 1
        self.sources = None
        self.source = str(getattr(info, "raw_cell", ""))
        self.hook()
        try:
            self.listen()
        except Exception as error:
            self.broke(error)

    def hook(self):
        from . import figures

        try:
            self.loops.hook()
            figures.hook(self)
        except Exception as error:
            self.broke(error)

    def after_cell(self, result):
        self.hook()
        self.printed()
        try:
            if result.result is not None:
                self.displayed(result.result)
            self.loops.end_cell()
            self.look()
            self.rows.end_cell()
        except Exception as error:
            self.broke(error)

    def look(self):
        """At the notebook's names, for rows that are new."""
        names = self.names()
        for name, value in names.items():
            if self.since.get(name, (self,))[0] is not value:
                self.since[name] = value, self.cell
        try:
            self.rows.scan(names)
        except Exception as error:
            self.broke(error)

    def listen(self):
        """To what is written to the standard output: `print` itself stays what it is."""
        stream, watch, plain = sys.stdout, self, sys.stdout.write
        if getattr(plain, "watched", False):  # IPython may put back what was there before a cell, or may not
            return

        def write(text):
            if not watch.over:
                watch.written.append(text)
            return plain(text)

        write.watched = True
        stream.write = write

    def printed(self):
        for line in "".join(self.written).splitlines():
            if line.strip() and not line.startswith("<Figure"):
                self.told.append((self.cell, "printed", line))
        self.written.clear()

    def listen_to_displays(self):
        """To what a cell displays by calling `display`."""
        publisher, watch = self.shell.display_pub, self
        plain = publisher.publish

        def publish(data, *args, **kwargs):
            try:
                if not watch.over and (text := shown_text(data)):
                    watch.told.append((watch.cell, "table", text))
            except Exception as error:
                watch.broke(error)
            return plain(data, *args, **kwargs)

        publisher.publish = publish

    def displayed(self, value):
        text = table_text(value)
        if text is not None:
            self.told.append((self.cell, "table", text))

    def figure(self, figure):
        self.rows.busy = True
        try:
            self.read_back(figure)
        finally:
            self.rows.busy = False

    def read_back(self, figure):
        from . import figures, pictures

        names = self.names()
        if self.sources is None:
            self.sources = pictures.Sources(names)
        self.told.append((self.cell, "figure", figures.describe(figure, self.sources)))
        said = pictures.contradictions(figure.axes, self.sources)
        for ax in figure.axes:
            said += pictures.exchanged_axes(ax)
        suptitle = figure._suptitle.get_text() if figure._suptitle is not None else ""
        shown = [(ax.get_title(), figures.array_of(ax.images[0])) for ax in figure.axes if len(ax.images) == 1]
        said += pictures.wrong_titles(shown, suptitle, self.rows, names)
        for text in said:
            self.find("figures", text, ("label", text))

    def results(self):
        results = self.shell.user_ns.get("results")
        return {str(k): v for k, v in results.items()} if isinstance(results, dict) else {}


def without_tags(html):
    """The words of HTML, a line for each row of a table."""
    html = re.sub(r"(?s)<(style|script|svg).*?</\1>", " ", html)
    html = re.sub(r"</tr>", "\n", html)
    return re.sub(r"[ \t]*\n\s*", "\n", re.sub(r"<[^>]*>", " ", html)).strip()[:20_000]


def shown_text(data):
    """What a reader sees of a displayed object as text; None for pictures, progress bars and figures."""
    if any("widget" in kind or "image" in kind for kind in data):
        return None
    if "text/html" in data:
        return without_tags(data["text/html"])
    text = data.get("text/markdown") or data.get("text/plain") or ""
    return None if text.startswith("<") or "it/s" in text or "%|" in text else text[:20_000]


def table_text(value):
    """What a reader sees of a displayed table: its header and cells as text; None for anything else."""
    pandas = sys.modules.get("pandas")
    if type(value).__module__.startswith("IPython") and hasattr(value, "_repr_html_"):
        html = value._repr_html_()
        return without_tags(html) if isinstance(html, str) and "<img" not in html else None
    if pandas is None:
        return None if not isinstance(value, (str, int, float, tuple, list, dict)) else repr(value)[:4000]
    if type(value).__name__ == "Styler":
        parts = value._translate(True, True) if hasattr(value, "_translate") else {}
        rows = parts.get("head", []) + parts.get("body", [])
        return "\n".join("\t".join(str(cell.get("display_value", cell.get("value", ""))) for cell in row
                                   if cell.get("is_visible", True)) for row in rows)
    if isinstance(value, (pandas.DataFrame, pandas.Series)):
        return value.to_csv(sep="\t", float_format="%.6g")
    return None if not isinstance(value, (str, int, float, tuple, list, dict)) else repr(value)[:4000]


def start(shake=0):
    """Begin to watch this kernel.

    `shake`: a seed; clocks then run unevenly and the machine seems another; networks are moved where it is odd.
    """
    global WATCH
    from IPython import get_ipython

    shell = get_ipython()
    WATCH = watch = Watch(shell, shake)
    if shake:
        from .clocks import elsewhere, uneven

        uneven(shake)
        elsewhere(shake)
    watch.listen_to_displays()
    shell.events.register("pre_run_cell", watch.before_cell)
    shell.events.register("post_run_cell", watch.after_cell)


def finish():
    """All that was found and told, as JSON. Nothing is watched any more."""
    from .figures import number
    from .routes import routes

    watch = WATCH
    watch.stop()
    watch.loops.close_all()
    results = {}
    for key, value in watch.results().items():
        try:
            results[key] = number(value)
        except (TypeError, ValueError):
            results[key] = str(value)
    try:
        second = routes(watch.results(), watch.names())
    except Exception as error:
        watch.broke(error)
        second = {}
    from .state import state

    return json.dumps({
        "shake": watch.shake,
        "findings": [[key[0], key[1], text, list(key[2:])] for key, text in watch.findings.items()],
        "story": watch.loops.story(), "told": watch.told, "results": results, "routes": second,
        "state": state(watch.names(), {name: cell for name, (_, cell) in watch.since.items()}, watch.cell),
        "errors": watch.errors, "environment": environment()}, default=str)


def environment():
    """What decides whether numbers can be compared: the system and the versions."""
    versions = {name: getattr(sys.modules.get(name), "__version__", "") for name in
                ("numpy", "pandas", "matplotlib", "torch", "torchvision", "sklearn", "PIL")}
    versions["python"] = sys.version
    found = {name: ".".join(version.split("+")[0].split(".")[:2]) for name, version in versions.items() if version}
    torch = sys.modules.get("torch")
    found["device"] = "cuda" if torch is not None and torch.cuda.is_available() else "cpu"
    return {"system": sys.platform, "machine": platform.machine(), **found}
