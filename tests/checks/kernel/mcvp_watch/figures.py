"""Every figure that is shown, read back from its axes: labels, legends, and where the data come from that it draws."""
import sys

import numpy as np

MOST = 60  # artists of a kind that are told one by one, rows and columns of a table


def array_of(image):
    """The numbers that a picture was drawn from, as they were handed over."""
    array = image.get_array()
    return np.asarray(array.filled(0) if hasattr(array, "filled") else array)


def color_of(artist):
    from matplotlib.colors import to_hex

    for name in ("get_color", "get_facecolor", "get_edgecolor"):
        getter = getattr(artist, name, None)
        if getter is not None:
            try:
                color = getter()
                if not isinstance(color, str) and np.ndim(color) == 2:
                    color = color[0] if len(color) else "none"
                return to_hex(color)
            except Exception:
                continue
    return ""


def label_of(artist):
    label = str(artist.get_label() or "")
    return "" if label.startswith("_") else label


def artists_of(ax):
    """Kind, artist, and its numbers as they were handed over, of what an axes draws."""
    from matplotlib.collections import PathCollection, QuadMesh

    for line in ax.lines[:MOST]:
        yield "line", line, line.get_ydata(orig=False)
    for collection in ax.collections[:MOST]:
        if isinstance(collection, PathCollection):
            yield "points", collection, np.asarray(collection.get_offsets(), dtype=float)[..., 1]
        elif isinstance(collection, QuadMesh):
            yield "mesh", collection, collection.get_array()
    for bars in ax.containers[:MOST]:
        wide = getattr(bars, "orientation", "vertical") == "horizontal"
        patches = getattr(bars, "patches", [])
        yield "bars", bars, [bar.get_width() if wide else bar.get_height() for bar in patches]
    for image in ax.images[:MOST]:
        yield "image", image, array_of(image)


def describe_axes(ax, sources):
    told = {"x": ax.get_xlabel(), "y": ax.get_ylabel(), "scales": f"{ax.get_xscale()} {ax.get_yscale()}",
            "draws": [], "legend": [], "from": []}
    if hasattr(ax, "get_zlabel"):
        told["z"] = ax.get_zlabel()
    for kind, artist, values in artists_of(ax):
        if label := label_of(artist):
            told["draws"].append([kind, label, color_of((getattr(artist, "patches", None) or [artist])[0])])
        if found := sources.of_picture(values) if kind == "image" else sources.of(values):
            told["from"].append([f"{kind} {label_of(artist)}", found])
    legend = ax.get_legend()
    if legend is not None:
        handles = list(getattr(legend, "legend_handles", None) or getattr(legend, "legendHandles", []))
        told["legend"] = [f"{text.get_text()} {color_of(handle)}" for text, handle in zip(legend.get_texts(), handles)]
    return told


def describe(figure, sources):
    return {"axes": [describe_axes(ax, sources) for ax in figure.axes if ax.get_visible()]}


def describe_table(frame, sources):
    """Columns and rows by their names, and where the numbers of each column come from."""
    frame = frame.to_frame() if frame.ndim == 1 else frame
    columns = [str(column) for column in frame.columns]
    told = {"x": "table", "y": "", "scales": "", "draws": [["column", column, ""] for column in columns],
            "legend": [str(row) for row in frame.index], "from": []}
    for k, column in enumerate(columns):
        values = frame.iloc[:, k]
        if values.dtype.kind in "fi" and (found := sources.of(values.to_numpy())):
            told["from"].append([f"column {column}", found])
    return {"axes": [told]}


def hook_tables(watch, shell):
    """Every frame that is shown, by `display` or as a cell's last line, is told."""
    format_as = shell.display_formatter.format

    def watched_format(value, *args, **kwargs):
        try:
            pandas = sys.modules.get("pandas")
            if pandas is not None and not watch.over:
                frame = getattr(value, "data", None) if type(value).__name__ == "Styler" else value
                if isinstance(frame, (pandas.DataFrame, pandas.Series)) and max(frame.shape) <= MOST:
                    watch.table(frame)
        except Exception as error:
            watch.broke(error)
        return format_as(value, *args, **kwargs)

    shell.display_formatter.format = watched_format


def hook(watch):
    """From now on every figure that `plt.show` shows is read back first."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None or getattr(pyplot.show, "watched", False):
        return
    show = pyplot.show

    def watched_show(*args, **kwargs):
        try:
            for figure_number in () if watch.over else pyplot.get_fignums():
                watch.figure(pyplot.figure(figure_number))
        except Exception as error:
            watch.broke(error)
        return show(*args, **kwargs)

    watched_show.watched = True
    watched_show.__doc__ = show.__doc__
    pyplot.show = watched_show
