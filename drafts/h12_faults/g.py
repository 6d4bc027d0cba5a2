CHAPTER = "18"
IMPORTS = ('onnx', 'onnxruntime', 'torch.onnx')
F = {
'convert_to_onnx': [
 ('accuracy of one file for all', [('answers_of(one, part) for part in test_set.data.split(1000)', 'answers_of(in_eval, part) for part in test_set.data.split(1000)')], 0),
 ('training mode', [('torch.onnx.export(module.eval(), (example,)', 'torch.onnx.export(module.train(), (example,)')], 0),
 ('dynamic axis forgotten', [('dynamo=True, dynamic_shapes=dynamic, verbose=False,', 'dynamo=True, verbose=False,')], 0),
 ('weights beside the file', [('program.save(path, external_data=False)\n    return path', 'program.save(path, external_data=True)\n    return path')], 0),
 ('preprocessing forgotten', [('return self.network(self.preprocess(images)).softmax(dim=1)', 'return self.network(images[:, None].float()).softmax(dim=1)')], 0),
 ('softmax over the batch', [('self.preprocess(images)).softmax(dim=1)', 'self.preprocess(images)).softmax(dim=0)')], 0),
 ('difference without abs', [('(expected - found).abs().max()', '(expected - found).max()')], 0),
 ('time of all calls', [('seconds[name].append((time.perf_counter() - began) / calls[name])', 'seconds[name].append(time.perf_counter() - began)')], 0),
 ('threads ignored', [('options.intra_op_num_threads = threads', 'options.intra_op_num_threads = 1')], 0),
 ('compiled is eager', [('lambda: compiled_module(images)', 'lambda: module(images)')], 0),
 ('throughput is latency', [('medians.rdiv(medians.index.get_level_values("batch"), axis=0)}', 'medians}')], 0),
 ('changed compares with itself', [('(by_file.argmax(1) != by_module.argmax(1))', '(by_file.argmax(1) != by_file.argmax(1))')], 0),
 ('accuracy of the module', [('file_accuracy, module_accuracy = accuracy_of(by_file, test_set.targets)', 'file_accuracy, module_accuracy = accuracy_of(by_module, test_set.targets)')], 0),
 ('gain of the wrong column', [('"gain_batch_1": gain.loc[("garments", 1, 1), "onnxruntime"]', '"gain_batch_1": gain.loc[("garments", 1, 1), "compiled"]')], 0),
 ('bias not folded', [('folded_bias = norm.bias - scale * norm.running_mean', 'folded_bias = norm.bias')], 0),
 ('cost swapped', [('"torch_mb": cost.loc["torch", "on disk, MB"]', '"torch_mb": cost.loc["onnxruntime", "on disk, MB"]')], 0),
],
}
