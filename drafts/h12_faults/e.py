CHAPTER = "18"
IMPORTS = ('ray', 'ray.data', 'ray.train.torch', 'ray.serve', 'fastapi', 'httpx')
F = {
'Scaling_out_with_Ray': [
 ('seconds of one worker twice', [('"training_seconds_2_workers": two_seconds[group]', '"training_seconds_2_workers": one_seconds[group]')], 0),
 ('seconds of another variant', [('metrics[f"seconds, {name}"] = time.perf_counter() - began', 'metrics["seconds, group norm"] = time.perf_counter() - began')], 0),
 ('gain of two workers upside down', [('training["1 worker"] / training["2 workers"]', 'training["2 workers"] / training["1 worker"]')], 0),
 ('batch not divided', [('mine = share_of(rows, rank, world) if divide else rows', 'mine = rows')], 0),
 ('always divided', [('mine = share_of(rows, rank, world) if divide else rows', 'mine = share_of(rows, rank, world)')], 0),
 ('gradients not averaged', [('network = ray.train.torch.prepare_model(network)', 'network = network')], 0),
 ('sum of losses', [('losses.append(mean.item() / world)', 'losses.append(mean.item())')], 0),
 ('workers in other orders', [('order = torch.Generator().manual_seed(config["seed"] + (0 if divide else rank))', 'order = torch.Generator().manual_seed(config["seed"] + rank)')], 0),
 ("worker's own start", [('        torch.manual_seed(config["seed"])\n        network = garment_net(10)', '        network = garment_net(10)')], 0),
 ('batch order lost', [('embedded = embedded.sort_values("id")\n', '')], 0),
 ('first rows for all', [('torch.from_numpy(self.images[batch["id"]])', 'torch.from_numpy(self.images[: len(batch["id"])].copy())')], 0),
 ('training mode', [('network = with_group_norm(garment_net(10)).eval()\n        network.load_state_dict(weights)\n        self.features', 'network = garment_net(10)\n        network.load_state_dict(weights)\n        self.features')], 0),
 ('embeds training images', [('np.save(collection, test_set.data[:count])', 'np.save(collection, train_set.data[:count])')], 0),
 ('replies in another order', [('for p in probabilities(self.network, torch.stack(inputs))]', 'for p in probabilities(self.network, torch.stack(inputs)).flip(0)]')], 0),
 ('server without preprocessing', [('x = self.preprocess(pixels[None])', 'x = pixels[None, None].float() / 255')], 0),
 ('one replica twice', [('Garments.options(num_replicas=replicas)', 'Garments.options(num_replicas=1)')], 0),
 ('checkpoint of the last variant', [('report(metrics, next(iter(networks.values())).float(), rank)', 'report(metrics, list(networks.values())[-1].float(), rank)')], 0),
 ('gain upside down', [('gain = throughput.loc[names[1], "photo"] / throughput.loc[names[0], "photo"]', 'gain = throughput.loc[names[0], "photo"] / throughput.loc[names[1], "photo"]')], 0),
 ('rates of the wrong server', [('"garments_per_second_replicas": throughput.loc[names[1], "garment"]', '"garments_per_second_replicas": throughput.loc[names[0], "garment"]')], 0),
 ('batching never off', [('if batching else', 'if True else')], 0),
 ('neighbors include the query', [('similarity[query] = -torch.inf', 'pass')], 0),
],
}
