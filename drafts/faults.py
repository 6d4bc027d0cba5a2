"""faults.py action|3d: plant each fault in a copy, run the tests (and, where asked, the quick run), say what caught it."""
import json, os, re, shutil, subprocess, sys, time
from pathlib import Path
which = sys.argv[1]; only = sys.argv[2:]
W = Path('.'); C = Path(f'scratch/h10b/fw_{which}')
NB = {'action': 'action_recognition', '3d': '3D_object_detection', 'pose': 'Human_pose_detection'}[which]
TEST = {'action': 'test_action_recognition', '3d': 'test_3d_object_detection', 'pose': 'test_human_pose_detection'}[which]
FAULTS = {
 'action': [
  ('kernel flipped in time', "w[:, :, k], padding=pad) for k", "w[:, :, K - 1 - k], padding=pad) for k", 0),
  ('BGR kept', "cv2.cvtColor(frames[n], cv2.COLOR_BGR2RGB)", "frames[n]", 0),
  ('clips instead of videos held out', "apart = torch.isin(sources, held_out)", "apart = torch.rand(len(sources), generator=generator) < 0.25", 0),
  ('starts of segments', "((2 * i + 1) * N // (2 * T))", "(i * N // T)", 0),
  ('labels of reversed clips kept', "torch.cat([actions, actions ^ 1])", "torch.cat([actions, actions])", 0),
  ('predictions in training mode', '    model.eval()\n    return torch.cat([model(part)', '    return torch.cat([model(part)', 0),
  ('video read from the clip name', 'path.stem.rpartition("_")[0]', 'path.stem', 0),
  ('reversal along the wrong axis', 'predict_logits(model, clips.flip(2)), actions ^ 1', 'predict_logits(model, clips.flip(3)), actions ^ 1', 0),
  ('mean over frames kept out of features', 'features = network(inputs[None] if sees_clips else inputs).mean(dim=0)', 'features = network(inputs[None] if sees_clips else inputs)[0]', 0),
  ('training without zero_grad', '        optimizer.zero_grad()\n', '', 1),
 ],
 '3d': [
  ('yaw of the wrong sign', "yaw = (-turns - math.pi / 2", "yaw = (turns - math.pi / 2", 0),
  ('mirror without yaw', "[1, -1, 1, 1, 1, 1, -1]", "[1, -1, 1, 1, 1, 1, 1]", 0),
  ('rotation transposed', "@ rotation.transpose(0, 2, 1)", "@ rotation", 0),
  ('rows and columns swapped', "(row * cells + column)[inside]", "(column * cells + row)[inside]", 0),
  ('a car found twice', "            taken.add((scene, best))\n", "            pass\n", 0),
  ('IoU in space without heights in the union', "[box[3] * box[4] * box[5] for box in (one, other)]", "[box[3] * box[4] for box in (one, other)]", 0),
  ('keeps the right of the line', "if a >= 0:", "if a <= 0:", 0),
  ('height and length swapped in labels', "height, width, length = sizes.T", "length, width, height = sizes.T", 0),
  ('center on the floor', "np.stack([x, y, z + height / 2, length", "np.stack([x, y, z, length", 0),
  ('errors everywhere', ".sum(dim=1)[positive].sum()", ".sum(dim=1).sum()", 0),
  ('test scenes from the training seed', "simulate(count, seed, directions", "simulate(count, 0, directions", 0),
  ('largest instead of nearest hit', "distances.argmin(axis=1), distances.min(axis=1)", "distances.argmin(axis=1), distances.max(axis=1)", 0),
  ('sine and cosine exchanged in decoding', "torch.atan2(pair[0], pair[1])", "torch.atan2(pair[1], pair[0])", 0),
  ('yaw error not wrapped', "math.atan2(math.sin(2 * turn), math.cos(2 * turn))", "2 * turn", 0),
 ],
 'pose': []}[which]
if which == 'pose': FAULTS = json.loads(Path('scratch/h10b/pose_faults.json').read_text())
if C.exists(): shutil.rmtree(C)
shutil.copytree(W, C, ignore=shutil.ignore_patterns('.git', 'Chapter0*', 'Chapter14', 'Chapter15', 'Chapter17', 'Chapter18', '__pycache__')); [os.remove(f) for f in (C/'tests'/'quick').glob('*.toml') if f.stem != 'Chapter10']
path = C/'Chapter10'/f'{NB}.ipynb'
clean = json.loads((W/'Chapter10'/f'{NB}.ipynb').read_text())
env = dict(os.environ)
t00 = time.time()
for name, a, b, quick in FAULTS:
    if only and not any(o in name for o in only): continue
    nb = json.loads(json.dumps(clean)); n = 0
    for c in nb['cells']:
        s = ''.join(c['source'])
        if c['cell_type'] == 'code' and a in s: c['source'] = s.replace(a, b); n += 1
    if n == 0: print('NOT FOUND', name, flush=True); continue
    path.write_text(json.dumps(nb))
    t0 = time.time()
    r = subprocess.run(['scratch/bin/slot','python','-m','pytest',f'tests/chapter10/{TEST}.py','-n','0','-x','-q','--no-header','-p','no:cacheprovider','--tb=line'], cwd=C, env=env, capture_output=True, text=True)
    how = [l for l in r.stdout.splitlines() if l.startswith('FAILED') or l.startswith('ERROR')]
    if r.returncode == 0 and quick:
        r = subprocess.run(['scratch/bin/slot','python','-m','pytest',f'Chapter10/{NB}.ipynb','-n','0','-x','-q','--no-header','--tb=short'], cwd=C, env=env, capture_output=True, text=True)
        how = ['QUICK RUN ' + l for l in r.stdout.splitlines() if 'Error' in l][:2]
    print('caught ' if r.returncode else 'MISSED ', name, '|', how[:1], f'{time.time()-t0:.0f} s', flush=True)
print(f'{time.time()-t00:.0f} s in all')
