FAULTS=[
("run lengths along the rows","flat = mask.T.reshape(-1).int()","flat = mask.reshape(-1).int()"),
("crowds kept as objects",'single = torch.tensor(target["iscrowd"]) == 0','single = torch.tensor(target["iscrowd"]) >= 0'),
("share of the true mask in a crowd","torch.where(crowd[None], sizes, sizes + others - both)","torch.where(crowd[None], others, sizes + others - both)"),
("half a pixel off when pasting","x = (torch.arange(width) + 0.5 - x0) / (x1 - x0) * 2 - 1  #","x = (torch.arange(width) - x0) / (x1 - x0) * 2 - 1  #"),
("masks not mirrored",'"masks": target["masks"].flip(2)}','"masks": target["masks"]}'),
("box mirrored without exchanging its sides","torch.stack([image.shape[2] - x1, y0, image.shape[2] - x0, y1], dim=1)","torch.stack([image.shape[2] - x0, y0, image.shape[2] - x1, y1], dim=1)"),
("old numbers kept","labels = torch.tensor([kinds[label] for label in target[\"labels\"][keep].tolist()], dtype=torch.int64)","labels = target[\"labels\"][keep]"),
("masks without their selection",'"masks": target["masks"][keep]}','"masks": target["masks"]}'),
("background not counted","new_heads(model, len(kinds) + 1)","new_heads(model, len(kinds))"),
("result of the wrong row",'"ellipse_mask_map": table.loc["ellipse", "mask mAP"]','"ellipse_mask_map": table.loc["filled box", "mask mAP"]'),
]
