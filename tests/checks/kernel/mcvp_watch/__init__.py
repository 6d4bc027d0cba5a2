"""Watches a notebook from inside its kernel: where rows go, how loops train, what is drawn and reported.

`start()` before the first cell, `finish()` after the last, which returns what was found and what was told as JSON.
Nothing of it stands in the notebook's namespace, and what is watched computes what it would compute unwatched.
"""
import json
import platform
import sys
import traceback

WATCH = None


class Watch:
    def __init__(self, shell):
        from .loops import Loops
        from .rows import Rows

        self.shell = shell
        self.cell = 0
        self.findings, self.once = {}, set()
        self.figures, self.tables = [], []  # (cell, what was read back), in order
        self.errors = []
        self.rows, self.loops = Rows(self), Loops(self)
        self.known = set(shell.user_ns)
        self.over = False
        self.source = ""  # of this cell
        self.arrays = {}  # what the notebook's arrays held when a figure was last looked at
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

    def hook(self):
        from . import figures

        try:
            self.loops.hook()
            figures.hook(self)
        except Exception as error:
            self.broke(error)

    def after_cell(self, result):
        self.hook()
        try:
            self.loops.end_cell()
            self.look()
            self.rows.end_cell()
        except Exception as error:
            self.broke(error)

    def look(self):
        """At the notebook's names, for rows that are new."""
        try:
            self.rows.scan(self.names())
        except Exception as error:
            self.broke(error)

    def figure(self, figure):
        self.rows.busy = True
        try:
            self.read_back(figure)
        finally:
            self.rows.busy = False

    def table(self, frame):
        """What a cell shows as a table is told as a figure is."""
        from . import figures

        self.rows.busy = True
        try:
            self.tables.append((self.cell, figures.describe_table(frame, self.sources_of(self.names()))))
        finally:
            self.rows.busy = False

    def sources_of(self, names):
        from . import pictures

        if self.sources is None:
            self.sources = pictures.Sources(names, self.rows, self.arrays)
        return self.sources

    def read_back(self, figure):
        from . import figures, pictures

        names = self.names()
        self.sources_of(names)
        self.figures.append((self.cell, figures.describe(figure, self.sources)))
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


def start():
    """Begin to watch this kernel."""
    global WATCH
    from IPython import get_ipython

    from . import figures

    shell = get_ipython()
    WATCH = watch = Watch(shell)
    figures.hook_tables(watch, shell)
    shell.events.register("pre_run_cell", watch.before_cell)
    shell.events.register("post_run_cell", watch.after_cell)


def finish():
    """All that was found and told, as JSON. Nothing is watched any more."""
    from .routes import routes

    watch = WATCH
    watch.stop()
    watch.loops.close_all()
    results = {}
    for key, value in watch.results().items():
        try:
            results[key] = float(value)
        except (TypeError, ValueError):
            results[key] = str(value)
    try:
        second = routes(watch.results(), watch.names())
    except Exception as error:
        watch.broke(error)
        second = {}
    return json.dumps({
        "findings": [[key[0], key[1], text, list(key[2:])] for key, text in watch.findings.items()],
        "story": watch.loops.story(), "figures": watch.figures, "tables": watch.tables, "results": results,
        "routes": second, "errors": watch.errors, "environment": environment()}, default=str)


def environment():
    """What decides whether all of a record is compared: the system and the versions."""
    versions = {name: getattr(sys.modules.get(name), "__version__", "") for name in
                ("numpy", "pandas", "matplotlib", "torch", "torchvision", "sklearn", "PIL")}
    versions["python"] = sys.version
    found = {name: ".".join(version.split("+")[0].split(".")[:2]) for name, version in versions.items() if version}
    torch = sys.modules.get("torch")
    found["device"] = "cuda" if torch is not None and torch.cuda.is_available() else "cpu"
    return {"system": sys.platform, "machine": platform.machine(), **found}
