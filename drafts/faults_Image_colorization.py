FAULTS=[
("a and b exchanged","return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)","return torch.stack([116 * y - 16, 200 * (y - z), 500 * (x - y)], dim=1)"),
("sRGB taken for light",'t = torch.einsum("ij,njhw->nihw", matrix, linear) / white\n    x','t = torch.einsum("ij,njhw->nihw", matrix, images) / white\n    x'),
("common bins weigh more","weights = 1 / (mix * share + (1 - mix) / len(share))","weights = mix * share + (1 - mix) / len(share)"),
("multiplied by the temperature","(logits / temperature).softmax(dim=1)","(logits * temperature).softmax(dim=1)"),
("target not mirrored","inputs, wanted = inputs.flip(-1), wanted.flip(-1)","inputs = inputs.flip(-1)"),
("bins from validation photos",'centers = color_bins(ab["train"]','centers = color_bins(ab["val"]'),
("result of the wrong row",'"test_psnr_l1_db": table.loc["L1", "PSNR (dB)"]','"test_psnr_l1_db": table.loc["classes", "PSNR (dB)"]'),
("scale forgotten in use","with_colors(lightness, AB_SCALE * z if name","with_colors(lightness, z if name"),
("weights of the predicted bin",'* weights[bins]).mean()','* weights[logits.argmax(dim=1)]).mean()'),
("colors at the places transposed","argmin(dim=1).view(one.shape[1:])","argmin(dim=1).view(one.shape[1:]).T"),
("skip left out","x = level(torch.cat([F.interpolate(x, scale_factor=2.0), skip], dim=1))","x = level(torch.cat([F.interpolate(x, scale_factor=2.0), 0 * skip], dim=1))"),
("gray photos kept, colored ones out","mean(dim=(1, 2)) > least","mean(dim=(1, 2)) < least"),
]
