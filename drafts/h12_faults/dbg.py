CHAPTER = "05"
F = {"age_gender_torch_snippets": [("x", [("BINS = 9", "BINS = 9")], 0)]}
