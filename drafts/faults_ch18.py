"""faults.py NOTEBOOK [names...] [--run]: plant each fault on a copy; run its tests (or, with --run, its quick run)."""
import json, shutil, subprocess, sys, time
from pathlib import Path
W, T = Path("."), Path(f"drafts/tree_{sys.argv[1]}")
F = {
"convert_to_onnx": {
 "training mode": ("torch.onnx.export(module.eval(), (example,)", "torch.onnx.export(module.train(), (example,)"),
 "dynamic axis forgotten": ("dynamo=True, dynamic_shapes=dynamic, verbose=False,", "dynamo=True, verbose=False,"),
 "weights beside the file": ("program.save(path, external_data=False)\n    return path", "program.save(path, external_data=True)\n    return path"),
 "preprocessing forgotten": ("return self.network(self.preprocess(images)).softmax(dim=1)", "return self.network(images[:, None].float()).softmax(dim=1)"),
 "softmax over the batch": ("self.preprocess(images)).softmax(dim=1)", "self.preprocess(images)).softmax(dim=0)"),
 "difference without abs": ("(expected - found).abs().max()", "(expected - found).max()"),
 "time of all calls": ("seconds[name].append((time.perf_counter() - began) / calls[name])", "seconds[name].append(time.perf_counter() - began)"),
 "threads ignored": ("options.intra_op_num_threads = threads", "options.intra_op_num_threads = 1"),
 "compiled is eager": ("lambda: compiled_module(images)", "lambda: module(images)"),
 "throughput is latency": ("medians.rdiv(medians.index.get_level_values(\"batch\"), axis=0)}", "medians}"),
 "changed compares with itself": ("(by_file.argmax(1) != by_module.argmax(1))", "(by_file.argmax(1) != by_file.argmax(1))"),
 "accuracy of the module": ("file_accuracy, module_accuracy = accuracy_of(by_file, test_set.targets)", "file_accuracy, module_accuracy = accuracy_of(by_module, test_set.targets)"),
 "gain of the wrong column": ("\"gain_batch_1\": gain.loc[(\"garments\", 1, 1), \"onnxruntime\"]", "\"gain_batch_1\": gain.loc[(\"garments\", 1, 1), \"compiled\"]"),
 "bias not folded": ("folded_bias = norm.bias - scale * norm.running_mean", "folded_bias = norm.bias"),
 "cost swapped": ("\"torch_mb\": cost.loc[\"torch\", \"on disk, MB\"]", "\"torch_mb\": cost.loc[\"onnxruntime\", \"on disk, MB\"]"),
},
"quantization": {
 "calibration on the test set": ("x_calibration = x_train[:CALIBRATION]", "x_calibration = preprocess(test_set.data[:CALIBRATION])"),
 "calibrated on test in the call": ("quantized(float_file, x_calibration, \"int8.onnx\")", "quantized(float_file, x_val, \"int8.onnx\")"),
 "zero point's sign": ("round(-low / scale)", "round(low / scale)"),
 "no clamp": ("(torch.round(x / scale) + zero_point).clamp(0, 2**bits - 1).int()", "(torch.round(x / scale) + zero_point).int()"),
 "scale of the wrong axis": ("axes = tuple(range(1 if per_channel else 0, weight.ndim))", "axes = tuple(range(0 if per_channel else 1, weight.ndim))"),
 "lost and won swapped": ("lost, won = (right[\"float32\"] & ~right[name])", "won, lost = (right[\"float32\"] & ~right[name])"),
 "choice on the test images": ("choices[name] = accuracy_of(answers_of(session_of(path), x_val), y_val)", "choices[name] = accuracy_of(answers_of(session_of(path), preprocess(test_set.data)), test_set.targets)"),
 "time ratio upside down": ("\"int8_time_ratio\": 1 / ratio.loc", "\"int8_time_ratio\": ratio.loc"),
 "accuracy of the wrong file": ("\"accuracy_int8\": static[\"accuracy\"]", "\"accuracy_int8\": comparison.loc[\"int8 dynamic\", \"accuracy\"]"),
 "size ratio upside down": ("\"size_ratio\": kilobytes[\"float32\"] / kilobytes[\"int8 static\"]", "\"size_ratio\": kilobytes[\"int8 static\"] / kilobytes[\"float32\"]"),
 "half not halved": ("halves = {name: copy.deepcopy(network).to(dtype)", "halves = {name: copy.deepcopy(network)"),
 "static times a dynamic file": ("\"int8 static\": int8_file}", "\"int8 static\": dynamic_file}"),
 "clamped bits mixed": ("(\"7 bits, 16-bit sums\", 7, 2**15 - 1)", "(\"7 bits, 16-bit sums\", 8, 2**15 - 1)"),
},
"Deploying_in_a_container": {
 "root": ("USER 10001", "USER root"),
 "program before libraries": ("COPY requirements.txt ./", "COPY requirements.txt server.py decoding.py page.html garments.safetensors ./"),
 "health check of another path": ("127.0.0.1:8000/health', timeout=4", "127.0.0.1:8000/healthz', timeout=4"),
 "markers ignored": ("if one.marker is None or one.marker.evaluate({\"extra\": \"\"})]", "]"),
 "share of torch with CUDA": ("sizes[\"torch\"] -= cuda_in_torch", "pass"),
 "stages not differences": ("stages = starts.diff(axis=1).fillna(starts).median()", "stages = starts.median()"),
 "ending measured while it runs": ("told = time.perf_counter()\nending = ", "told = time.perf_counter()\n    ending = "),
 "fastest for median": ("\"cold_start_seconds\": starts[\"first answer\"].median()", "\"cold_start_seconds\": starts[\"first answer\"].min()"),
 "ready without a forward pass": ("return {\"sum\": sum(answer([0.0] * 784))}", "return {\"sum\": 1.0}"),
 "listens to the world": ("uvicorn.run(app, host=\"127.0.0.1\"", "uvicorn.run(app, host=\"0.0.0.0\""),
 "waits for health, not ready": ("while get(f\"{url}/ready\")[0] != 200:", "while get(f\"{url}/health\")[0] != 200:"),
},
"measuring_drift": {
 "reference of training images": ("reference, rest = normal.z[:REFERENCE], normal.z[REFERENCE:]", "reference, rest = seen.z[:REFERENCE], normal.z[REFERENCE:]"),
 "normal is training images": ("normal = observe(network, preprocess(images[\"validation\"]), labels[\"validation\"], center, directions)", "normal = observe(network, preprocess(images[\"train\"][:10_000]), labels[\"train\"][:10_000], center, directions)"),
 "no Bonferroni": ("return min(1.0, len(p) * min(p))", "return min(p)"),
 "diagonal kept": ("np.fill_diagonal(k, 0)", "np.fill_diagonal(k, 1)"),
 "p without the observed": ("(mmd2 >= mmd2[0] - 1e-12).mean()", "(mmd2[1:] > mmd2[0] + 1e-12).mean()"),
 "delay from the window's first image": ("ends = np.arange(1, distances.shape[1] + 1) * n", "ends = np.arange(distances.shape[1]) * n"),
 "threshold from the reference": ("distance_to_reference(draw(rest, n, rng), reference, bandwidth) for _", "distance_to_reference(draw(reference, n, rng), reference, bandwidth) for _"),
 "new images are known": ("known = normal.z[:half]", "known = normal.z"),
 "confidence below the threshold": ("\"estimated\": (new.confidence > t).mean()", "\"estimated\": (new.confidence < t).mean()"),
 "smallest directions": ("eigenvectors[:, -COMPONENTS:].flip(1)", "eigenvectors[:, :COMPONENTS].flip(1)"),
 "results of the wrong rate": ("ks_rate, mmd_rate, uncorrected_rate, unseen_rate, seen_rate", "mmd_rate, ks_rate, uncorrected_rate, unseen_rate, seen_rate"),
 "delay of another window": ("middle = WINDOWS[1]\nks_rate", "middle = WINDOWS[2]\nks_rate"),
 "alarms of KS for MMD": ("\"alarms\": powers[kind, s, SAMPLE][1]}", "\"alarms\": powers[kind, s, SAMPLE][0]}"),
 "lost is gained": ("lost = fog_right[0].mean() - fog_right[step_at[quiet + delay - 1]]", "lost = fog_right[step_at[quiet + delay - 1]] - fog_right[0].mean()"),
 "threshold t on test images": ("t = np.quantile(normal.confidence[:half], 1 - normal.right[:half].mean())", "t = np.quantile(fogged.confidence, 1 - fogged.right.mean())"),
 "seen is unseen": ("draw(seen_confidence, large, rng), draw(confidence, large, rng)", "draw(confidence, large, rng), draw(confidence, large, rng)"),
 "stream starts in fog": ("step_at = np.round(np.clip((time - quiet)", "step_at = np.round(np.clip((time + quiet)"),
},
"vector_stores": {
 "not normalized": ("stored, queries = normalized(stored_raw), normalized(queries_raw)", "stored, queries = stored_raw, queries_raw"),
 "queries not normalized": ("stored, queries = normalized(stored_raw), normalized(queries_raw)", "stored, queries = normalized(stored_raw), queries_raw"),
 "the large store not normalized": ("many = normalized(many)[", "many = many["),
 "L2 for inner product": ("index = faiss.IndexIVFFlat(coarse, vectors.shape[1], lists, faiss.METRIC_INNER_PRODUCT)", "index = faiss.IndexIVFFlat(coarse, vectors.shape[1], lists)"),
 "worst first": ("rows = np.argsort(-scores, axis=1", "rows = np.argsort(scores, axis=1"),
 "batch order lost": ("parts = [(features_of(network, preprocess(part)) - center) @ directions for part in images.split(10_000)]", "parts = [(features_of(network, preprocess(part)) - center) @ directions for part in images.split(10)][::-1]"),
 "smallest directions": ("eigenvectors[:, -DIMENSIONS:].flip(1)", "eigenvectors[:, :DIMENSIONS].flip(1)"),
 "labels of the whole set": ("\"train\": train_set.targets[train_rows], \"test\": test_set.targets[:QUERIES]", "\"train\": train_set.targets, \"test\": test_set.targets[:QUERIES]"),
 "queries from the store": ("\"test\": test_set.data[:QUERIES]}", "\"test\": train_set.data[train_rows[:QUERIES]]}"),
 "recall by place": ("np.mean([len(np.intersect1d(f, t)) / len(t) for f, t in zip(found, truth)])", "np.mean(found == truth)"),
 "PQ trained on queries' size": ("index.train(vectors[:20_000])", "index.train(vectors[:300])"),
 "results of IVF for HNSW": ("hnsw = largest[largest[\"index\"] == \"HNSW\"]", "hnsw = largest[largest[\"index\"] == \"IVF\"]"),
 "largest is smallest": ("largest = tables[max(SIZES)]", "largest = tables[min(SIZES)]"),
 "latency in seconds": ("return 1000 * np.median(seconds)\n", "return np.median(seconds)\n"),
 "careless recall of itself": ("\"careless_recall\": recall(careless_rows, rows)", "\"careless_recall\": recall(rows, rows)"),
 "PQ of the wrong setting": ("largest[\"setting\"] == n), \"recall\"].item()", "largest[\"setting\"] == CODE_BYTES[0]), \"recall\"].item()"),
},
"Scaling_out_with_Ray": {
 "batch not divided": ("mine = share_of(rows, rank, world) if divide else rows", "mine = rows"),
 "always divided": ("mine = share_of(rows, rank, world) if divide else rows", "mine = share_of(rows, rank, world)"),
 "gradients not averaged": ("network = ray.train.torch.prepare_model(network)", "network = network"),
 "sum of losses": ("losses.append(mean.item() / world)", "losses.append(mean.item())"),
 "workers in other orders": ("order = torch.Generator().manual_seed(config[\"seed\"] + (0 if divide else rank))", "order = torch.Generator().manual_seed(config[\"seed\"] + rank)"),
 "worker's own start": ("        torch.manual_seed(config[\"seed\"])\n        network = garment_net(10)", "        network = garment_net(10)"),
 "batch order lost": ("embedded = embedded.sort_values(\"id\")\n", ""),
 "first rows for all": ("torch.from_numpy(self.images[batch[\"id\"]])", "torch.from_numpy(self.images[: len(batch[\"id\"])].copy())"),
 "training mode": ("network = with_group_norm(garment_net(10)).eval()\n        network.load_state_dict(weights)\n        self.features", "network = garment_net(10)\n        network.load_state_dict(weights)\n        self.features"),
 "embeds training images": ("np.save(collection, test_set.data[:count])", "np.save(collection, train_set.data[:count])"),
 "replies in another order": ("for p in probabilities(self.network, torch.stack(inputs))]", "for p in probabilities(self.network, torch.stack(inputs)).flip(0)]"),
 "server without preprocessing": ("x = self.preprocess(pixels[None])", "x = pixels[None, None].float() / 255"),
 "one replica twice": ("Garments.options(num_replicas=replicas)", "Garments.options(num_replicas=1)"),
 "checkpoint of the last variant": ("report(metrics, next(iter(networks.values())).float(), rank)", "report(metrics, list(networks.values())[-1].float(), rank)"),
 "gain upside down": ("gain = throughput.loc[names[1], \"photo\"] / throughput.loc[names[0], \"photo\"]", "gain = throughput.loc[names[0], \"photo\"] / throughput.loc[names[1], \"photo\"]"),
 "rates of the wrong server": ("\"garments_per_second_replicas\": throughput.loc[names[1], \"garment\"]", "\"garments_per_second_replicas\": throughput.loc[names[0], \"garment\"]"),
 "batching never off": ("if batching else", "if True else"),
 "neighbors include the query": ("similarity[query] = -torch.inf", "pass"),
},
}
def plant(nb, old, new):
    p = T / f"Chapter18/{nb}.ipynb"; shutil.copy(W / f"Chapter18/{nb}.ipynb", p)
    d = json.loads(p.read_text()); n = 0
    for c in d["cells"]:
        if c["cell_type"] != "code": continue
        s = "".join(c["source"]); n += s.count(old); c["source"] = s.replace(old, new)
    p.write_text(json.dumps(d)); return n
def main():
    nb, rest = sys.argv[1], sys.argv[2:]; run = "--run" in rest; rest = [r for r in rest if r != "--run"]
    subprocess.run(["rsync", "-a", "--delete", "--exclude", ".git", f"{W}/", f"{T}/"], check=True) if shutil.which("rsync") else (shutil.rmtree(T, ignore_errors=True), shutil.copytree(W, T, ignore=shutil.ignore_patterns(".git", "runs", "executed")))
    for name, (old, new) in F[nb].items():
        if rest and name not in rest: continue
        n = plant(nb, old, new)
        if n < 1: print(f"{name}: NOT FOUND", flush=True); continue
        target = [f"Chapter18/{nb}.ipynb"] if run else [f"tests/chapter18/test_{nb.lower()}.py"]
        began = time.time()
        r = subprocess.run(["pytest", *target, "-n", "0", "-x", "-q", "-p", "no:cacheprovider"], cwd=T, capture_output=True, text=True)
        lines = [l for l in r.stdout.splitlines() if l.startswith(("FAILED", "ERROR", "E  "))]
        print(f"{name} ({n}): {'caught' if r.returncode else 'SURVIVED'} {time.time()-began:.0f} s | {' | '.join(l[:110] for l in lines[:1] + lines[-1:])}", flush=True)
    shutil.copy(W / f"Chapter18/{nb}.ipynb", T / f"Chapter18/{nb}.ipynb")
main()
