"""mut.py COUNT SEED NB...: a sound run of each notebook that forks before each faulty cell; writes mut/NAME.json"""
import ast, copy, contextlib, io, json, os, random, shutil, signal, sys, tempfile, time, pathlib
WT = 'trees/C'
sys.path.insert(0, WT); os.chdir(WT)
count, seed, names = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
OUT = pathlib.Path(os.environ.get('MUT_OUT', 'scratch/C/mut'))
os.environ['OMP_NUM_THREADS'] = os.environ['MKL_NUM_THREADS'] = '1'
os.environ.update(ATEN_CPU_CAPABILITY='avx2', MKL_ENABLE_INSTRUCTIONS='AVX2', ONEDNN_MAX_CPU_ISA='AVX2', OPENBLAS_CORETYPE='Haswell')
from tests.offline import prepare, needs
scratch = pathlib.Path(tempfile.mkdtemp(prefix='mcvp-'))
os.environ.update(prepare(scratch / 'world', needs.of_arguments(names, pathlib.Path.cwd())))
os.environ['TMPDIR'] = str(scratch)
from tests import quick
from tests.notebooks import read, code_cells, answers, cell_digests, code_digest, ROOT
from tests.checks import trial
src = pathlib.Path('scratch/watch/mutate.py').read_text()
part = src[src.index('DRAW = {'):src.index("rng = random.Random(f'{seed}")]
import matplotlib; matplotlib.use('agg')
import torch, pandas, matplotlib.pyplot as plt
torch.set_num_threads(1)
trial.warm_up()
plt.show = lambda *a, **k: plt.close('all')
from IPython.core.interactiveshell import InteractiveShell
null = os.open(os.devnull, os.O_WRONLY)


def one(name):
    nb = read(ROOT / name)
    quick.set_parameters(nb, quick.load(ROOT).get(name, {}))
    cs = code_cells(nb)
    cells = [c.source for c in cs]
    tags = [set(c.metadata.get('tags', [])) for c in cs]
    extra = [s for _, s in answers(nb)]
    env = dict(globals(), seed=seed, name=name)
    exec(compile(part, 'mutate', 'exec'), env)
    candidates = env['candidates']
    rng = random.Random(f'{seed} {name}')
    by_place = {}
    for k, (source, tag) in enumerate(zip(cells, tags)):
        for c in candidates(source, tag) or []:
            by_place.setdefault(c[0], []).append((k, *c))
    places = ['top', 'leak', 'function', 'figure', 'results']
    pools = {}
    for p in places:
        kinds = {}
        for c in by_place.get(p, []):
            kinds.setdefault((c[2], c[3].partition(' @ ')[0].partition(' -> ')[0]), []).append(c)
        for v in kinds.values(): rng.shuffle(v)
        ks = sorted(kinds); rng.shuffle(ks)
        q = []
        while any(kinds.values()):
            for kk in ks:
                if kinds[kk]: q.append(kinds[kk].pop())
        pools[p] = q
    order_ = []
    while any(pools.values()) and len(order_) < count * 4:
        for p in places:
            if pools[p]: order_.append(pools[p].pop(0))
    at_cell = {}
    for rank, c in enumerate(order_):
        at_cell.setdefault(c[0], []).append((rank, c))
    quota = {p: -(-count // len(places)) for p in places}
    # decide early, so that the chosen are those of the smallest rank: try lazily, but leave out what is beyond twice the quota
    d = pathlib.Path(tempfile.mkdtemp(prefix='mcvp-')); shutil.copytree(ROOT / name.split('/')[0], d / 'c'); os.chdir(d / 'c')
    sys.path.insert(0, '')
    shell = InteractiveShell.instance(); shell.enable_gui = lambda gui=None: None
    shell.showtraceback = lambda *a, **k: None
    shell.history_manager.enabled = False
    sys.path.insert(0, str(trial.KERNEL))
    import mcvp_watch as watch
    watch.start()
    results = []
    t0 = time.time()

    def run(source):
        with contextlib.redirect_stdout(io.StringIO()) as text:
            r = shell.run_cell(source, store_history=True)
        plt.close('all')
        return r, text.getvalue()

    def skipped(j): return 'skip' in tags[j] or 'nbval-skip' in tags[j] or not cells[j].strip()

    def finish():
        return json.loads(watch.finish())

    def run_from(k, first):
        printed = []
        for j in range(k, len(cells)):
            if skipped(j): continue
            r, text = run(first if j == k and first is not None else cells[j])
            printed.append(text)
            if not r.success and 'raises-exception' not in tags[j]:
                return j + 1, repr(r.error_in_exec or r.error_before_exec)[:200], None, printed
        told = finish()
        for j, s in enumerate(extra):
            r, _ = run(s)
            if not r.success: return len(cells) + j + 1, repr(r.error_in_exec or r.error_before_exec)[:200], told, printed
        return None, None, told, printed

    ranks = {}
    for k in range(len(cells)):
        for rank, (cell, p, kind, text, make) in at_cell.get(k, []):
            if quota[p] <= 0: continue
            ranks.setdefault(p, []).append(rank)
    keep = {p: set(sorted(r)[:max(2, int(1.6 * quota[p]))]) for p, r in ranks.items()}
    for k in range(len(cells)):
        for rank, (cell, p, kind, text, make) in at_cell.get(k, []):
            if quota[p] <= 0 or rank not in keep[p]: continue
            try: source = make(shell.user_ns)
            except Exception: continue
            if source is None: continue
            quota[p] -= 1
            reading, writing = os.pipe()
            pid = os.fork()
            if pid == 0:
                signal.alarm(60)
                os.dup2(null, 1); os.dup2(null, 2)
                work = tempfile.mkdtemp(prefix='mcvp-', dir=scratch); shutil.copytree('.', work + '/c'); os.chdir(work + '/c')
                try:
                    where, failed, told, printed = run_from(k, source)
                    data = {'where': where, 'failed': failed, 'told': told, 'printed': printed, 'cpu': time.process_time()}
                    with os.fdopen(writing, 'w') as f: f.write(json.dumps(data, default=str))
                finally:
                    os._exit(0)
            os.close(writing)
            with os.fdopen(reading) as f: data = f.read()
            os.waitpid(pid, 0)
            results.append({'name': name, 'cell': k + 1, 'place': p, 'kind': kind, 'text': text, 'source': source,
                            **(json.loads(data) if data else {'where': k + 1, 'failed': 'died or too long', 'told': None, 'printed': []})})
        if skipped(k): continue
        r, text = run(cells[k])
        for m in results:
            if m['cell'] <= k + 1: m.setdefault('sound printed', []).append(text)
        if not r.success and 'raises-exception' not in tags[k]:
            print(name, 'SOUND RUN FAILED', k + 1, repr(r.error_in_exec or r.error_before_exec)); break
    sound = finish()
    for m in results:
        m['same print'] = m.pop('printed') == m.pop('sound printed', None)
    sound['code'] = code_digest(nb); sound['cells'] = cell_digests(nb)
    t1 = (pathlib.Path('scratch/C/told1') / name).with_suffix('.json'); t1.parent.mkdir(parents=True, exist_ok=True); t1.write_text(json.dumps(sound, default=str))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / (name.replace('/', '__') + '.json')).write_text(json.dumps({'sound': sound, 'mutants': results}, default=str))
    print(name, len(results), 'mutants in', round(time.time() - t0), 's', flush=True)
    shutil.rmtree(d, ignore_errors=True)


for name in names:
    if (OUT / (name.replace('/', '__') + '.json')).exists(): continue
    pid = os.fork()
    if pid == 0:
        try: one(name)
        except BaseException as e:
            import traceback; traceback.print_exc()
        finally:
            sys.stdout.flush(); os._exit(0)
    os.waitpid(pid, 0)
shutil.rmtree(scratch, ignore_errors=True)
