import json
F={}
F["sa"]={"notebook":"Chapter15/self-attention.ipynb","tests":"tests/chapter15/test_self_attention.py","faults":[
 ["softmax over queries","fill(~mask, torch.finfo(scores.dtype).min), dim=-1)","fill(~mask, torch.finfo(scores.dtype).min), dim=-2)"],
 ["scale missing"," / math.sqrt(Q.shape[-1])\n    if mask",'\n    if mask'],
 ["mask inverted","scores.masked_fill(~mask,","scores.masked_fill(mask,"],
 ["heads by view without transpose","return self.W_O(output.transpose(1, 2).flatten(2)), A","return self.W_O(output.reshape(len(x), -1, self.heads * output.shape[-1])), A"],
 ["values from the queries' tokens","self.split(self.W_V(context))","self.split(self.W_V(x))"],
 ["jacobian sign","torch.diag_embed(a) - a[","torch.diag_embed(a) + a["],
 ["target is another tile","target = digits.gather(1, asked[:, None])[:, 0]\n        loss","target = digits[:, 0]\n        loss"],
 ["rows drawn with repeated colors","torch.rand(rows, colors, generator=generator).argsort(dim=1)[:, :tiles]","torch.randint(colors, (rows, tiles), generator=generator)"],
 ["library's mask not inverted","attn_mask=~causal","attn_mask=causal"],
 ["results from the wrong variable",'"averaging_test_accuracy_percent": scores_of.loc["averaging"].mean()','"averaging_test_accuracy_percent": scores_of.loc["attention"].mean()'],
 ["test rows from training digits","deal_tiles(stacks[\"test\"], TEST_ROWS","deal_tiles(stacks[\"train\"], TEST_ROWS"],
 ["biases not copied","            layer.bias.copy_(bias)\n",""],
]}
F["tr"]={"notebook":"Chapter15/transformers-from-scratch.ipynb","tests":"tests/chapter15/test_transformers_from_scratch.py","faults":[
 ["mask off by one","torch.ones(length, length, dtype=torch.bool).tril()","torch.ones(length, length, dtype=torch.bool).tril(1)"],
 ["target not shifted","return F.pad(target, (1, 0), value=WORDS)[:, :-1]","return target"],
 ["norm after f, before the sum","else norm(x + f(x))","else x + norm(f(x))"],
 ["cross-attention looks at itself","self.cross(y, memory)[0]","self.cross(y)[0]"],
 ["third norm is the second","residual(x, self.mlp, self.norm3, self.pre_norm)","residual(x, self.mlp, self.norm2, self.pre_norm)"],
 ["no last norm of the encoder","return self.norm_encoder(x)","return x"],
 ["positions missing in the decoder","x, mask = self.place(self.given(given)), causal","x, mask = self.given(given), causal"],
 ["sines and cosines swapped","torch.stack([angles.sin(), angles.cos()]","torch.stack([angles.cos(), angles.sin()]"],
 ["written from the first place","model.decode(memory, given)[:, -1]","model.decode(memory, given)[:, 0]"],
 ["map of the first block","model.decoder[-1].cross","model.decoder[0].cross"],
 ["reverse flips the batch","source.flip(1)","source.flip(0)"],
 ["results from the wrong variable",'"reverse_percent": means["reverse", "with"]','"reverse_percent": means["sort", "with"]'],
]}
F["vit"]={"notebook":"Chapter15/ViT_from_scratch.ipynb","tests":"tests/chapter15/test_vit_from_scratch.py","faults":[
 ["patches with rows and columns mixed","squares.permute(0, 2, 4, 1, 3, 5)","squares.permute(0, 4, 2, 1, 3, 5)"],
 ["classified from the last token","self.norm(self.blocks(x))[:, 0]","self.norm(self.blocks(x))[:, -1]"],
 ["no positions for CLS","torch.cat([self.cls.expand(len(x), 1, -1), x], dim=1) + self.positions","torch.cat([self.cls.expand(len(x), 1, -1), x + self.positions[1:]], dim=1)"],
 ["ReLU for GELU","nn.GELU()","nn.ReLU()"],
 ["post-norm","x = x + self.attend(self.norm1(x))[0]\n        return","x = self.norm1(x + self.attend(x)[0])\n        return"],
 ["default eps","self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)","self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)"],
 ["test images not scrambled","for images, labels in (train_sets[size], test_set))","for images, labels in (train_sets[size], train_sets[size]))"],
 ["CNN twice as wide","CNN_WIDTH = 15","CNN_WIDTH = 30"],
 ["attention of the wrong token","caught[0][:, :, 0, 1:]","caught[0][:, :, 1:, 0]"],
 ["tested on validation images",'zip_none','zip_none'],
 ["frozen positions not frozen","nn.init.zeros_(model.positions).requires_grad_(False)","nn.init.zeros_(model.positions)"],
 ["results from the wrong variable",'"gap_most_points": gap.loc[size].mean()','"gap_most_points": gap.loc[SIZES[0]].mean()'],
 ["q, k exchanged","zip((block.attend.W_Q, block.attend.W_K, block.attend.W_V)","zip((block.attend.W_K, block.attend.W_Q, block.attend.W_V)"],
]}
F["vit"]["faults"]=[f for f in F["vit"]["faults"] if f[1]!="zip_none"]
F["cart"]={"notebook":"Chapter14/Deep_Q_Learning_Cart_Pole_balancing.ipynb","tests":"tests/chapter14/test_deep_q_learning_cart_pole_balancing.py","faults":[
 ["learning rate over updates that never happen","total = max(1, recipe.updates)","total = max(1, recipe.steps // recipe.update_every)"],
 ["truncated taken for terminated","yield observation, action, reward, next_observation, terminated\n","yield observation, action, reward, next_observation, terminated or truncated\n"],
 ["target not detached","@torch.no_grad()\ndef td_targets","def td_targets"],
 ["stability over the whole run","after = returns.loc[reached[0]:] if len(reached)","after = returns if len(reached)"],
 ["final level is the first quarter","returns.iloc[-max(1, len(returns) // 4):]","returns.iloc[:max(1, len(returns) // 4)]"],
 ["speed is the last time reached","reached[0] if len(reached) else np.nan,","reached[-1] if len(reached) else np.nan,"],
 ["test table of validation episodes","evaluate(greedy(runs[\"both\", seed].best), test_seeds)","evaluate(greedy(runs[\"both\", seed].best), validation_seeds)"],
 ["target network never copied","                agent.copy_to_target()\n",""],
 ["film cropped beside the cart","middle = int(columns.mean())","middle = int(columns.mean()) + 90"],
 ["results from the wrong variable",'results[f"{word}_{name.replace(\' \', \'_\')}"] = float(group[column].mean())','results[f"{word}_{name.replace(\' \', \'_\')}"] = float(group["speed"].mean())'],
 ["variant without its change","\"no target network\": replace(recipe, use_target=False)","\"no target network\": replace(recipe, use_target=True)"],
]}
json.dump(F,open("scratch/h14/faults.json","w"))
import nbformat
for k,s in F.items():
    src="\n\n".join(c.source for c in nbformat.read("./"+s["notebook"],4).cells if c.cell_type=="code")
    for n,o,_ in s["faults"]:
        if o not in src: print(k,n,"NOT FOUND")
