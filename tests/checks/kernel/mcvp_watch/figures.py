"""Every figure that is shown, read back from its axes: labels, legends, and the data that they stand for."""
import itertools
import sys
import zlib

import numpy as np

SIGNIFICANT = 6
MOST = 60  # artists of a kind that are told one by one


def number(value):
    """A number as it is kept: six digits."""
    value = float(value)
    if value != value or value in (np.inf, -np.inf):
        return str(value)
    return float(f"{value:.{SIGNIFICANT}g}")


def summary(values):
    """A sequence of numbers in nine: how many, how many of them not finite, and seven that tell it from others."""
    try:
        array = np.asarray(values, dtype=float).ravel()
    except (TypeError, ValueError):
        return [str(v) for v in list(values)[:8]]
    finite = array[np.isfinite(array)]
    if not len(array):
        return [0]
    if not len(finite):
        return [len(array)]
    order = np.arange(len(array))[np.isfinite(array)]
    ramp = 1.8 * order / max(len(array) - 1, 1) - 0.9 + 0.05 * np.cos(7 * order)  # changes with the order
    kept = [finite[0], finite[-1], finite.min(), finite.max(), finite.mean(), (ramp * finite).sum() / len(finite),
            finite.std()]
    return [len(array), len(array) - len(finite), *map(number, kept)]


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


def colors_of(artists):
    """The colors of artists in order, equal ones that follow each other once; of many, what tells their order."""
    colors = [color for color, _ in itertools.groupby(map(color_of, artists))]
    if len(colors) <= 24:
        return " ".join(colors)
    return f"{' '.join(sorted(set(colors))[:24])} order {zlib.crc32(' '.join(colors).encode()):08x}"


def label_of(artist):
    label = str(artist.get_label() or "")
    return "" if label.startswith("_") else label


def describe_axes(ax, sources):
    from matplotlib.collections import PathCollection, QuadMesh
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import FixedFormatter, FuncFormatter

    told = {"title": ax.get_title(), "x": ax.get_xlabel(), "y": ax.get_ylabel()}
    for side, axis in (("xticks", ax.xaxis), ("yticks", ax.yaxis)):
        formatter = axis.get_major_formatter()
        mapping = getattr(axis.units, "_mapping", None)  # of categories
        if mapping:
            told[side] = [list(map(str, mapping))[:64]]
        elif isinstance(formatter, (FixedFormatter, FuncFormatter)):
            places = axis.get_majorticklocs()
            told[side] = [formatter.format_ticks(places)[:64], summary(places)]
    if hasattr(ax, "get_zlabel"):
        told["z"] = ax.get_zlabel()
    told["scales"] = f"{ax.get_xscale()} {ax.get_yscale()} {int(ax.xaxis_inverted())}{int(ax.yaxis_inverted())}"
    told["limits"] = [number(value) for value in (*ax.get_xlim(), *ax.get_ylim())]
    artists = []
    for line in ax.lines[:MOST]:
        artists.append(["line", label_of(line), f"{color_of(line)} {line.get_linestyle()} {line.get_marker()}",
                        summary(line.get_xdata(orig=False)), summary(line.get_ydata(orig=False))])
        if hasattr(line, "get_data_3d"):
            artists.append(["height", label_of(line), "", summary(line.get_data_3d()[2])])
    for collection in ax.collections[:MOST]:
        if len(getattr(collection, "_offsets3d", ())) == 3:
            artists.append(["height", label_of(collection), "", summary(collection._offsets3d[2])])
        kind = type(collection).__name__
        if isinstance(collection, PathCollection):
            points = np.asarray(collection.get_offsets(), dtype=float).reshape(-1, 2)
            sizes = collection.get_array()
            artists.append(["points", label_of(collection), color_of(collection), summary(points[:, 0]),
                            summary(points[:, 1]), summary(sizes if sizes is not None else [])])
        elif isinstance(collection, QuadMesh):
            artists.append(["mesh", label_of(collection), "", summary(collection.get_array())])
        else:
            paths = collection.get_paths()
            points = np.concatenate([p.vertices for p in paths]) if paths else np.zeros((0, 2))
            values = collection.get_array()
            artists.append([kind, label_of(collection), color_of(collection), summary(points[:, 0]),
                            summary(points[:, 1]), summary(values if values is not None else [])])
    bars = [p for p in ax.patches if isinstance(p, Rectangle)]
    others = [p for p in ax.patches if not isinstance(p, Rectangle)]
    if bars:
        boxes = np.array([[*p.get_xy(), p.get_width(), p.get_height()] for p in bars])
        artists.append(["bars", " ".join(dict.fromkeys(c.get_label() for c in ax.containers
                                                       if not str(c.get_label()).startswith("_"))),
                        colors_of(bars), *(summary(c) for c in boxes.T)])
    if others:
        points = np.concatenate([p.get_path().vertices if type(p).__name__ != "FancyArrowPatch" else np.zeros((1, 2))
                                 for p in others])
        artists.append(["patches", str(len(others)), colors_of(others),
                        summary(points[:, 0]), summary(points[:, 1])])
    for image in ax.images[:MOST]:
        array = np.asarray(image.get_array().filled(np.nan) if hasattr(image.get_array(), "filled")
                           else image.get_array(), dtype=float)
        low, high = image.get_clim()
        plain = array.ndim == 3
        artists.append(["image", image.get_cmap().name if not plain else "", str(array.shape),
                        summary(array), [] if plain or low is None else [number(low), number(high)],
                        summary(image.get_extent())])
    texts = sorted(((t.get_text(), (*t.get_position(), *at(t))) for t in ax.texts), key=lambda item: str(item[1]))
    for table in ax.tables:
        texts += [(cell.get_text().get_text(), place) for place, cell in sorted(table.get_celld().items())]
    if texts:
        numbers = [p for _, xy in texts for p in xy if isinstance(p, (int, float, np.number))]
        artists.append(["texts", " | ".join(t for t, _ in texts)[:2000], "", summary(numbers)])
    legend = ax.get_legend()
    if legend is not None:
        told["legend"] = legend_of(legend)
    told["draws"] = artists
    told["from"] = [[name, found] for name, values in data_of(ax) if (found := sources.of(values))]
    return told


def data_of(ax):
    """What each artist is called, and its numbers as they were handed over."""
    from matplotlib.collections import PathCollection, QuadMesh

    for line in ax.lines[:MOST]:
        yield f"line {label_of(line)}", line.get_ydata(orig=False)
    for collection in ax.collections[:MOST]:
        if isinstance(collection, PathCollection):
            yield f"points {label_of(collection)}", np.asarray(collection.get_offsets(), dtype=float)[..., 1]
        elif isinstance(collection, QuadMesh):
            yield "mesh", collection.get_array()
    for bars in ax.containers[:MOST]:
        patches = [patch for patch in bars.patches] if hasattr(bars, "patches") else []
        wide = getattr(bars, "orientation", "vertical") == "horizontal"
        yield f"bars {label_of(bars)}", [bar.get_width() if wide else bar.get_height() for bar in patches]
    for image in ax.images[:MOST]:
        yield "image", array_of(image)


def at(text):
    """The point that an annotation is about."""
    xy = getattr(text, "xy", ())
    return tuple(xy) if len(xy) == 2 and all(isinstance(value, (int, float, np.number)) for value in xy) else ()


def legend_of(legend):
    handles = list(getattr(legend, "legend_handles", None) or getattr(legend, "legendHandles", []))
    return [f"{legend.get_title().get_text()}".replace("None", "")] + [
        f"{text.get_text()} {color_of(handle)}" for text, handle in zip(legend.get_texts(), handles)]


def describe(figure, sources):
    suptitle = figure._suptitle.get_text() if figure._suptitle is not None else ""
    told = {"title": suptitle, "size": [number(side) for side in figure.get_size_inches()],
            "axes": [describe_axes(ax, sources) for ax in figure.axes if ax.get_visible()]}
    if figure.texts:
        told["texts"] = [text.get_text() for text in figure.texts if text is not figure._suptitle]
    if figure.legends:
        told["legend"] = [legend_of(legend) for legend in figure.legends]
    return told


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
