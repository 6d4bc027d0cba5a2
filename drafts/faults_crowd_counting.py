FAULTS=[
("x and y exchanged","g_x = (-((u - points[:, :1]) ** 2)","g_x = (-((u - points[:, 1:]) ** 2)"),
("density averaged, not added","return cells.sum(dim=(-3, -1))","return cells.mean(dim=(-3, -1))"),
("not divided by SCALE in use","return outputs.sum(dim=(1, 2)) / SCALE","return outputs.sum(dim=(1, 2))"),
("Gaussian by its formula, cut at the border","    g_y = (-((v - points[:, 1:]) ** 2) / (2 * sigma**2)).softmax(dim=1)","    g_y = (-((v - points[:, 1:]) ** 2) / (2 * sigma**2)).exp() / (sigma * (2 * torch.pi) ** 0.5)"),
("map not mirrored with its image","torch.where(flip[:, None, None], maps.flip(2), maps)","maps"),
("threshold from test crowds",'crowds["val"]), true["val"], THRESHOLDS','crowds["test"]), true["test"], THRESHOLDS'),
("peak maps in image pixels",'peak_map(points / STRIDE, height // STRIDE','peak_map(points, height // STRIDE'),
("boxes taken for xywh","return (boxes[:, :2] + boxes[:, 2:]) / 2","return boxes[:, :2] + boxes[:, 2:] / 2"),
("result of the wrong row",'"cells_peaks_mae": cell_table.loc["peaks", "MAE"]','"cells_peaks_mae": cell_table.loc["density", "MAE"]'),
("heat added, not the maximum","torch.zeros(1, height, width)]).amax(dim=0)","torch.zeros(1, height, width)]).sum(dim=0)"),
("bias with the wrong sign","np.asarray(estimates, dtype=float) - np.asarray(true, dtype=float)","np.asarray(true, dtype=float) - np.asarray(estimates, dtype=float)"),
("all cells counted as red","box_centers(box[label == red])","box_centers(box)"),
]
