"""Plants faults one at a time in a notebook: a sound run that forks before each faulty cell.  mutate.py OUT NB COUNT SEED"""
import ast, copy, contextlib, io, json, os, random, shutil, signal, sys, tempfile, time, pathlib, builtins
sys.path.insert(0, '.'); os.chdir('.')
out, name, count, seed = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
os.environ['OMP_NUM_THREADS'] = os.environ['MKL_NUM_THREADS'] = '1'
from tests.offline import prepare, needs
scratch = pathlib.Path(tempfile.mkdtemp(prefix='mcvp-'))
os.environ.update(prepare(scratch / 'world', needs.of_arguments([name], pathlib.Path.cwd())))
from tests import quick
from tests.notebooks import read, code_cells, ROOT
from tests.checks import trial, records, watched
nb = read(ROOT / name)
quick.set_parameters(nb, quick.load(ROOT).get(name, {}))
cells = [c.source for c in code_cells(nb)]
tags = [set(c.metadata.get('tags', [])) for c in code_cells(nb)]

DRAW = {'plot', 'bar', 'barh', 'scatter', 'imshow', 'set', 'set_title', 'set_xlabel', 'set_ylabel', 'legend', 'title', 'xlabel', 'ylabel', 'hist',
        'errorbar', 'fill_between', 'axhline', 'axvline', 'text', 'suptitle', 'pcolormesh', 'semilogy', 'loglog', 'step', 'set_xticks', 'set_yticks', 'annotate', 'show_images', 'draw'}
AXES = {'mean', 'sum', 'argmax', 'argmin', 'softmax', 'cat', 'stack', 'max', 'min', 'std', 'var', 'concatenate', 'norm', 'cumsum', 'amax'}
SETS = {'train': 'val', 'val': 'test', 'test': 'val', 'training': 'validation', 'validation': 'test'}
FLIP = {'max': 'min', 'min': 'max', 'argmax': 'argmin', 'argmin': 'argmax', 'idxmax': 'idxmin', 'idxmin': 'idxmax', 'nlargest': 'nsmallest'}


def called(node):
    f = node.func
    return f.attr if isinstance(f, ast.Attribute) else f.id if isinstance(f, ast.Name) else ''


def candidates(source, tag):
    """(place, kind, text, make(namespace) -> source or None)"""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    if 'parameters' in tag:
        return
    found = []

    def at(path_of):
        """The same node in a fresh copy."""
        return path_of

    parents = {}
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            parents[child] = node
    order = {id(node): k for k, node in enumerate(ast.walk(tree))}

    def inside(node):
        while node in parents:
            node = parents[node]
            yield node

    def place(node):
        ups = [node, *inside(node)]
        if any(isinstance(u, (ast.FunctionDef, ast.ClassDef)) for u in ups):
            return 'function'
        for u in ups:
            if isinstance(u, ast.Call) and called(u) in ('print', 'display', 'DataFrame', 'to_string'):
                return 'results'
            if isinstance(u, (ast.Assign, ast.AugAssign)):
                t = u.targets[0] if isinstance(u, ast.Assign) else u.target
                if isinstance(t, ast.Name) and t.id == 'results' or isinstance(t, ast.Subscript) and getattr(t.value, 'id', '') == 'results':
                    return 'results'
            if isinstance(u, ast.Call) and called(u) in DRAW:
                return 'figure'
        if any(isinstance(u, ast.Assert) for u in ups):
            return None
        stmt = next((u for u in ups if isinstance(u, ast.stmt) and parents.get(u) is tree), None)
        if stmt is tree.body[-1] and isinstance(stmt, ast.Expr) and not isinstance(stmt.value, ast.Constant):
            return 'results'
        return 'top'

    def edit(node, change):
        k = order[id(node)]

        def make(ns):
            fresh = ast.parse(source)
            twin = list(ast.walk(fresh))[k]
            if change(twin, fresh, ns) is False:
                return None
            text = ast.unparse(ast.fix_missing_locations(fresh))
            return None if text == ast.unparse(tree) else text
        return make

    def put(node, kind, text, change, where=None):
        w = where or place(node)
        if w:
            found.append((w, kind, f'{text} @ {ast.unparse(node)[:90]}', edit(node, change)))

    def remove(node, fresh):
        for n in ast.walk(fresh):
            for field in ('body', 'orelse', 'finalbody'):
                body = getattr(n, field, None)
                if isinstance(body, list) and node in body:
                    body[body.index(node)] = ast.Pass()
                    return

    for node in ast.walk(tree):
        w = place(node)
        if w is None:
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            c = called(node.value)
            if c == 'zero_grad':
                put(node, 'loop', 'zero_grad removed', lambda n, f, ns: remove(n, f))
            if c == 'step' and 'sched' in ast.unparse(node):
                put(node, 'loop', 'schedule not stepped', lambda n, f, ns: remove(n, f))
            if c == 'train' and not node.value.args:
                put(node, 'loop', 'train -> eval', lambda n, f, ns: setattr(n.value.func, 'attr', 'eval'))
            if c == 'eval' and not node.value.args:
                put(node, 'loop', 'eval removed', lambda n, f, ns: remove(n, f))
        if isinstance(node, ast.Call):
            c = called(node)
            if c in ('manual_seed', 'default_rng', 'seed') and node.args and not isinstance(node.args[0], ast.Constant):
                put(node, 'loop', 'seed -> 0', lambda n, f, ns: n.args.__setitem__(0, ast.Constant(0)))
            if c in AXES:
                for k, a in [*enumerate(node.args), *[(kw, kw.value) for kw in node.keywords if kw.arg in ('dim', 'axis')]]:
                    if isinstance(a, ast.Constant) and a.value in (0, 1) and a.value is not True and a.value is not False:
                        put(a, 'formula', 'axis', lambda n, f, ns: setattr(n, 'value', 1 - n.value), w)
            if c in FLIP and w in ('top', 'function', 'results'):
                def flip(n, f, ns):
                    if isinstance(n.func, ast.Attribute): n.func.attr = FLIP[n.func.attr]
                    else: n.func.id = FLIP[n.func.id]
                put(node, 'choice', 'max<->min', flip)
            if c == 'mean' and isinstance(node.func, ast.Attribute) and w == 'function':
                put(node, 'formula', 'mean -> sum', lambda n, f, ns: setattr(n.func, 'attr', 'sum'))
            if w == 'top':
                for kw in node.keywords:
                    if kw.arg in ('total_steps', 'T_max', 'epochs', 'lr', 'learning_rate', 'max_lr', 'batch_size', 'rate', 'steps', 'weight_decay', 'p', 'momentum'):
                        def double(n, f, ns):
                            n.value = ast.BinOp(n.value, ast.Mult(), ast.Constant(2))
                        put(kw.value, 'wiring', f'{kw.arg} doubled', lambda n, f, ns: replace(f, n, ast.BinOp(copy.deepcopy(n), ast.Mult(), ast.Constant(2))), w)
                names_ = [k for k, a in enumerate(node.args) if isinstance(a, ast.Name)]
                if len(names_) >= 2 and isinstance(node.func, ast.Name) and node.func.id not in ('zip', 'isinstance', 'range', 'print', 'max', 'min'):
                    a, b = names_[0], names_[1]
                    def swap(n, f, ns, a=a, b=b): n.args[a], n.args[b] = n.args[b], n.args[a]
                    put(node, 'wiring', 'arguments swapped', swap)
            if c in ('set',) and w == 'figure':
                kws = {k.arg: k for k in node.keywords}
                if 'xlabel' in kws and 'ylabel' in kws:
                    def lab(n, f, ns):
                        kk = {k.arg: k for k in n.keywords}
                        kk['xlabel'].value, kk['ylabel'].value = kk['ylabel'].value, kk['xlabel'].value
                    put(node, 'figure', 'axis labels exchanged', lab)
            if c in ('plot', 'scatter', 'bar', 'barh', 'errorbar', 'semilogy') and len(node.args) >= 2 and w in ('figure', 'function'):
                def xy(n, f, ns): n.args[0], n.args[1] = n.args[1], n.args[0]
                put(node, 'figure', 'x and y exchanged', xy, 'figure')
            if c == 'imshow' and node.args and w == 'figure':
                def tr(n, f, ns): n.args[0] = ast.Subscript(n.args[0], ast.Slice(step=ast.UnaryOp(ast.USub(), ast.Constant(1))), ast.Load()) if False else ast.Call(ast.Attribute(ast.Name('__import__("numpy")', ast.Load()), 'flipud', ast.Load()), [n.args[0]], [])
                put(node, 'figure', 'picture upside down', tr)
            if c == 'zip' and len(node.args) >= 2:
                def rz(n, f, ns):
                    n.args[-1] = ast.Subscript(ast.Call(ast.Name('list', ast.Load()), [n.args[-1]], []), ast.Slice(None, None, ast.UnaryOp(ast.USub(), ast.Constant(1))), ast.Load())
                fig = any(x in source for x in ('plt.', 'ax.', 'axes')) and w == 'top'
                put(node, 'figure' if fig else 'wiring', 'zip reversed', rz, 'figure' if fig else None)
            for kw in node.keywords:
                if kw.arg == 'label' and isinstance(kw.value, (ast.Constant,)) and w == 'figure':
                    others = [k.value.value for n2 in ast.walk(tree) if isinstance(n2, ast.Call) for k in n2.keywords if k.arg == 'label' and isinstance(k.value, ast.Constant) and k.value.value != kw.value.value]
                    if others:
                        put(kw.value, 'figure', f'label of another line', lambda n, f, ns, o=others[0]: setattr(n, 'value', o), 'figure')
                if kw.arg == 'ascending' and isinstance(kw.value, ast.Constant):
                    put(kw.value, 'table', 'sorted the other way', lambda n, f, ns: setattr(n, 'value', not n.value))
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            key = node.slice.value
            if key in SETS and w != 'function':
                put(node, 'leak', f'{key} -> {SETS[key]}', lambda n, f, ns: setattr(n.slice, 'value', SETS[n.slice.value]), 'leak')
            elif isinstance(node.ctx, ast.Load) and w in ('figure', 'results', 'top'):
                others = sorted({n2.slice.value for n2 in ast.walk(tree) if isinstance(n2, ast.Subscript) and isinstance(n2.slice, ast.Constant) and isinstance(n2.slice.value, str)
                                 and ast.unparse(n2.value) == ast.unparse(node.value)} - {key})
                if others:
                    put(node, 'column', f'{key} -> {others[0]}', lambda n, f, ns, o=others[0]: setattr(n.slice, 'value', o))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and w != 'function':
            parts = node.id.split('_')
            for word, other in SETS.items():
                if word in parts:
                    new = '_'.join(other if p == word else p for p in parts)
                    def setname(n, f, ns, new=new):
                        if new not in ns or type(ns[new]) is not type(ns.get(n.id)): return False
                        n.id = new
                    put(node, 'leak', f'{node.id} -> {new}', setname, 'leak')
            if w in ('figure', 'results', 'top') and not isinstance(parents.get(node), ast.Call) or w in ('results',):
                def wrong(n, f, ns):
                    value = ns.get(n.id)
                    t = type(value).__name__
                    if t not in ('float', 'int', 'Tensor', 'ndarray', 'DataFrame', 'dict', 'Series', 'float64', 'float32', 'list') or n.id.isupper(): return False
                    same = [m for m, v in ns.items() if m != n.id and not m.startswith('_') and type(v).__name__ == t and not m.isupper()
                            and getattr(v, 'shape', None) == getattr(value, 'shape', None) and (t not in ('float', 'int') or v != value)
                            and (t != 'dict' or list(v) == list(value)) and (t != 'DataFrame' or list(v.columns) == list(value.columns)) and (t != 'list' or len(v) == len(value))]
                    if not same: return False
                    n.id = random.Random(n.id + source).choice(sorted(same))
                put(node, 'variable', 'another variable', wrong)
        if isinstance(node, ast.BinOp) and w in ('function', 'top', 'results') and type(node.op) in (ast.Add, ast.Sub, ast.Mult, ast.Div):
            if any(isinstance(u, ast.JoinedStr) for u in (node, *inside(node))) and w != 'results' or any(isinstance(s, (ast.Constant, ast.JoinedStr)) and isinstance(getattr(s, 'value', ''), str) for s in (node.left, node.right)):
                continue
            flip_ = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
            put(node, 'formula', 'operator', lambda n, f, ns: setattr(n, 'op', flip_[type(n.op)]()))
        if isinstance(node, ast.Compare) and w in ('function', 'top') and type(node.ops[0]) in (ast.Lt, ast.Gt, ast.LtE, ast.GtE):
            fl = {ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.Gt, ast.GtE: ast.Lt}
            put(node, 'formula', 'comparison', lambda n, f, ns: n.ops.__setitem__(0, fl[type(n.ops[0])]()))
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and len(node.value.elts) >= 2:
            def sw(n, f, ns): n.value.elts[0], n.value.elts[1] = n.value.elts[1], n.value.elts[0]
            put(node, 'wiring', 'returned in another order', sw)
        if isinstance(node, ast.JoinedStr):
            vals = [v for v in node.values if isinstance(v, ast.FormattedValue)]
            if len(vals) >= 2 and w in ('results', 'figure', 'top', 'function'):
                def fs(n, f, ns):
                    v = [x for x in n.values if isinstance(x, ast.FormattedValue)]
                    v[0].value, v[1].value = v[1].value, v[0].value
                put(node, 'text', 'values of a text exchanged', fs, 'results' if w == 'top' else w)
        if isinstance(node, ast.Dict) and w == 'results' and len(node.keys) >= 2:
            def ds(n, f, ns): n.values[0], n.values[1] = n.values[1], n.values[0]
            put(node, 'results', 'values of two entries exchanged', ds)
            if len(node.keys) >= 3:
                put(node, 'results', 'an entry from another', lambda n, f, ns: n.values.__setitem__(-1, n.values[0]))
    return found


def replace(fresh, old, new):
    for n in ast.walk(fresh):
        for field, value in ast.iter_fields(n):
            if value is old:
                setattr(n, field, new); return
            if isinstance(value, list) and old in value:
                value[value.index(old)] = new; return


rng = random.Random(f'{seed} {name}')
every = []
for k, (source, tag) in enumerate(zip(cells, tags)):
    every += [(k, *c) for c in candidates(source, tag) or []]
by_place = {}
for c in every:
    by_place.setdefault(c[1], []).append(c)
chosen = []
places = ['top', 'leak', 'function', 'figure', 'results']
# in turn over places; within a place over kinds
queues = {}
for p in places:
    kinds = {}
    for c in by_place.get(p, []):
        kinds.setdefault(c[2], []).append(c)
    for v in kinds.values(): rng.shuffle(v)
    ks = sorted(kinds); rng.shuffle(ks)
    q = []
    while any(kinds.values()):
        for kk in ks:
            if kinds[kk]: q.append(kinds[kk].pop())
    queues[p] = q

import matplotlib; matplotlib.use('agg')
d = pathlib.Path(tempfile.mkdtemp(prefix='mcvp-')); shutil.copytree(ROOT / name.split('/')[0], d / 'c'); os.chdir(d / 'c')
from IPython.core.interactiveshell import InteractiveShell
sys.path.insert(0, str(trial.KERNEL))
import torch, pandas, matplotlib.pyplot
torch.set_num_threads(1)
shell = InteractiveShell.instance(); shell.enable_gui = lambda gui=None: None
shell.showtraceback = lambda *a, **k: None
shell.displayhook.quiet = lambda: True
shell.history_manager.enabled = False
import mcvp_watch as watch
trial.warm_up()
watch.start()
machine = {k for k, t in enumerate(tags, 1) if 'machine' in t}


def finish():
    told = json.loads(watch.finish())
    return told


def run_from(k, first):
    for j in range(k, len(cells)):
        if 'skip' in tags[j] or 'nbval-skip' in tags[j]: continue
        with contextlib.redirect_stdout(io.StringIO()):
            r = shell.run_cell(first if j == k and first is not None else cells[j], store_history=True)
        if not r.success and not ('raises-exception' in tags[j]):
            return j + 1, repr(r.error_in_exec or r.error_before_exec)[:200]
    return None


taken = 0
results = []
budget = {p: 0 for p in places}
# decide per cell what to plant: resolve lazily, in order of the queues, `count` in all
wanted = []
turn = 0
pools = {p: list(q) for p, q in queues.items()}
spare = 3
order_ = []
while any(pools.values()) and len(order_) < count * spare:
    for p in places:
        if pools[p]: order_.append(pools[p].pop(0))
at_cell = {}
for rank, c in enumerate(order_):
    at_cell.setdefault(c[0], []).append((rank, c))
quota = {p: -(-count // len(places)) for p in places}
t0 = time.time()
null = os.open(os.devnull, os.O_WRONLY)
sound_seconds = time.process_time()
for k in range(len(cells)):
    for rank, (cell, p, kind, text, make) in at_cell.get(k, []):
        if quota[p] <= 0 or rank > count * spare:
            continue
        try:
            source = make(shell.user_ns)
        except Exception as error:
            continue
        if source is None:
            continue
        quota[p] -= 1
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            signal.alarm(70)
            os.dup2(null, 1); os.dup2(null, 2)
            work = tempfile.mkdtemp(prefix='mcvp-'); shutil.copytree('.', work + '/c'); os.chdir(work + '/c')
            failed = run_from(k, source)
            told = None if failed else finish()
            shutil.rmtree(work, ignore_errors=True)
            with os.fdopen(writing, 'w') as f:
                f.write(json.dumps({'failed': failed, 'told': told}, default=str))
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as f:
            data = f.read()
        os.waitpid(pid, 0)
        results.append({'name': name, 'cell': k + 1, 'place': p, 'kind': kind, 'text': text, 'source': source,
                        **(json.loads(data) if data else {'failed': [k + 1, 'died or too long'], 'told': None})})
    with contextlib.redirect_stdout(io.StringIO()):
        if 'skip' in tags[k] or 'nbval-skip' in tags[k]: continue
        r = shell.run_cell(cells[k], store_history=True)
    if not r.success and 'raises-exception' not in tags[k]:
        print(name, 'SOUND RUN FAILED', k + 1, repr(r.error_in_exec or r.error_before_exec)); break
sound = finish()
out.mkdir(parents=True, exist_ok=True)
(out / (name.replace('/', '__') + '.json')).write_text(json.dumps({'sound': sound, 'mutants': results}))
print(name, len(results), 'mutants in', round(time.time() - t0), 's', flush=True)
os.chdir('/'); shutil.rmtree(d, ignore_errors=True); shutil.rmtree(scratch, ignore_errors=True)
