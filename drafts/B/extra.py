F = {("18", "Creating_an_API"): [
 ("answers in another order", [("for (_, future), answer in zip(batch, answers):", "for (_, future), answer in zip(batch[::-1], answers):")]),
 ("version without the settings", [("digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())", "digest = hashlib.sha256()")]),
 ("leakage: statistics of the test images", [('train_pixels = images["train"].float() / 255', 'train_pixels = images["test"].float() / 255')]),
 ("confidence of the least likely class", [("p.amax(dim=1).mean().item() for name, p in served", "p.amin(dim=1).mean().item() for name, p in served")]),
 ("gain upside down", [("gain = np.median(rates[max(CLIENTS), 64]) / np.median(rates[max(CLIENTS), 1])", "gain = np.median(rates[max(CLIENTS), 1]) / np.median(rates[max(CLIENTS), 64])")]),
 ("percentiles exchanged", [("np.percentile(seconds, (50, 95))", "np.percentile(seconds, (95, 50))")]),
 ("throughput of one client", [("return seconds, len(seconds) / (time.perf_counter() - began)", "return seconds, requests // clients / (time.perf_counter() - began)")]),
 ("right and wrong exchanged", [('{"garments, answered correctly": confidence[is_right].numpy(),', '{"garments, answered correctly": confidence[~is_right].numpy(),'), ('"garments, answered wrongly": confidence[~is_right].numpy()', '"garments, answered wrongly": confidence[is_right].numpy()')]),
 ("results: errors of the other server", [('"server_errors_after": float((after["status"]', '"server_errors_after": float((before["status"]')]),
 ("a figure of the wrong rates", [("medians = [np.median(rates[clients, largest]) for clients in CLIENTS]", "medians = [np.median(rates[clients, 1]) for clients in CLIENTS]")]),
 ("pixels counted after decoding", [("    if image.width * image.height > MAX_PIXELS:\n", "    if image.convert(\"L\").width * image.height > 1e99:\n")]),
]}

F[("08", "Training_YOLO_v8")] = [
 ("BGR: RGB given as BGR", [("pixels = test_photos.flip(1).permute", "pixels = test_photos.permute")]),
 ("one thread only", [("torch.set_num_threads(threads)\n", "")]),
 ("times exchanged", [('"ms_per_photo": speed[1], "ms_per_photo_batch_8": speed[8]', '"ms_per_photo": speed[8], "ms_per_photo_batch_8": speed[1]')]),
 ("timed on training photos", [('for path in photo_paths(config, "test")[:48]]', 'for path in photo_paths(config, "val")[:48]]')]),
 ("results: metric of the square for that of the photos", [("compared.loc[\"mAP\"].iloc[2] - compared.loc[\"mAP\"].iloc[1]", "compared.loc[\"mAP\"].iloc[1] - compared.loc[\"mAP\"].iloc[0]")]),
]

F.update({
("07", "Calculating_intersection_over_union"): [
 ("results: gain of boxes in touch", [('final.loc[(kind, "apart", name), "mean"] - final', 'final.loc[(kind, "in touch", name), "mean"] - final')])],
("07", "Non_max_suppression"): [
 ("results: boxes before and after exchanged", [('"boxes_before": final.loc["no NMS", "boxes for a photo"]', '"boxes_before": final.loc["NMS by class", "boxes for a photo"]')]),
 ("setting of the crowd chosen on tested scenes", [("chosen = some.loc[0].idxmax()", "chosen = some.loc[1:].mean().idxmax()")])],
("07", "Mean_average_precision"): [
 ("results: interval's ends exchanged", [('"test_map50_low": low, "test_map50_high": high', '"test_map50_low": high, "test_map50_high": low')]),
 ("figure: precision and recall exchanged", [('ax.plot(recall, precision, ("-", "--", "-.")[k]', 'ax.plot(precision, recall, ("-", "--", "-.")[k]')])],
("07", "Understanding_selectivesearch"): [
 ("leakage: random boxes of the test photos' sizes", [('train_boxes = torch.cat([truths[row] for row in parts["train"].tolist()])', 'train_boxes = torch.cat([truths[row] for row in parts["test"].tolist()])')]),
 ("chosen by the recall of all", [('chosen = table[f"recall of {BUDGET}"].idxmax()', 'chosen = table["recall of all"].idxmax()')]),
 ("figure: curves of other counts", [("curves = {name: (some[..., :-1] >= 0.5)", "curves = {name: (some[..., 1:] >= 0.5)")]),
 ("results: recall by class of the random boxes", [('by_class.loc[kind, "selective search"]', 'by_class.loc[kind, "random boxes"]')])],
("07", "Creating_bounding_box_ground_truth"): [
 ("found among all boxes, not among the planted ones", [("100 * flags.loc[kinds == kind, kind].mean()", "100 * flags[kind].mean()")]),
 ("results: of another fault", [('"wrong_class_found_percent": found["wrong class"].mean()', '"wrong_class_found_percent": found["outside"].mean()')]),
 ("partners counted among all boxes", [('"agreement_iou": agreed.loc[partner, "iou"].mean()', '"agreement_iou": agreed["iou"].mean()')])],
("07", "Training_RCNN"): [
 ("leakage: baseline copies test boxes", [('copied = [{**targets["train"][k], "scores": torch.ones(len(targets["train"][k]["labels"]))}\n          for k in rng.integers(len(parts["train"])', 'copied = [{**targets["test"][k], "scores": torch.ones(len(targets["test"][k]["labels"]))}\n          for k in rng.integers(len(parts["test"])')]),
 ("results: with and without regression exchanged", [('"rcnn_test_map50": score["map_50"][True].mean()', '"rcnn_test_map50": score["map_50"][False].mean()')]),
 ("table: rows exchanged", [('rows = {"R-CNN": True, "R-CNN without regression": False}', 'rows = {"R-CNN": False, "R-CNN without regression": True}')])],
("07", "Training_Fast_R_CNN"): [
 ("figure: time of one, mAP of the other", [('points = {name: (milliseconds[name], score["map"][name].tolist())', 'points = {name: (milliseconds["R-CNN"], score["map"][name].tolist())')]),
 ("results: of the slow one", [('"fast_test_map50": score["map_50"]["Fast R-CNN"].mean()', '"fast_test_map50": score["map_50"]["R-CNN"].mean()')])],
("08", "Training_SSD"): [
 ("results: deviation of the wrong column", [('"test_map_std": float(test_runs["mAP"].std() / 100)', '"test_map_std": float(test_runs["mAP50"].std() / 100)')]),
 ("eight photos timed one by one", [("detect(models[SEEDS[0]], some, defaults, CODER), test_photos[:48],\n                                         8)", "detect(models[SEEDS[0]], some, defaults, CODER), test_photos[:48],\n                                         1)")])],
("08", "Training_Faster_RCNN"): [
 ("leakage: baseline copies test boxes", [('copied_boxes(truths["train"], len(in_test), seed=0)', 'copied_boxes(truths["test"], len(in_test), seed=0)')]),
 ("results: proposals for final boxes", [('"covered_75_final_percent": float(covered.loc["final boxes"', '"covered_75_final_percent": float(covered.loc["proposals"')])],
("08", "Training_YOLO"): [
 ("effect against the wrong recipe", [('(wide["mosaic"] - wide["flips"])', '(wide["mosaic"] - wide["several scales"])')]),
 ("results: recall for precision: mAP for mAP50", [('"test_map50": mean.loc["all", "mAP50"] / 100', '"test_map50": mean.loc["all", "mAP"] / 100')])],
("08", "Working_details_of_YOLO"): [
 ("results: what the grid allows for what was trained", [('"test_map": quality.loc["trained network", "mAP"]', '"test_map": quality.loc["what the grid allows", "mAP"]')]),
 ("lost objects of the training scenes alone", [("for some in targets.values()) / sum(objects.values())", "for some in targets.values()) / objects[\"train\"]")])],
("08", "Components_of_modern_object_detection"): [
 ("results: positives of another rule", [('"positives_pyramid": pyramid["positives"].mean()', '"positives_pyramid": one_map["positives"].mean()')]),
 ("table: rescued where the rule is not needed", [('"anchors, pyramid, without the rescue rule": pyramid["best IoU"] < HIGH', '"anchors, pyramid, without the rescue rule": pyramid["best IoU"] >= HIGH')])],
("08", "Training_EfficientDet"): [
 ("effect against the wrong way", [('(runs.loc["learned weights"] - runs.loc["no neck"])["mAP"]', '(runs.loc["learned weights"] - runs.loc["equal weights"])["mAP"]')]),
 ("results: time of the network without a neck", [('"ms_per_photo": speed["learned weights"]["ms a photo"]', '"ms_per_photo": speed["no neck"]["ms a photo"]')])],
})
