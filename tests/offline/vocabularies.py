"""Small tokenizers of the real kinds: every byte or letter is a token, and common words are tokens of their own."""
from __future__ import annotations

import json
from pathlib import Path

from transformers import BertTokenizer, CLIPTokenizer, GPT2Tokenizer, RobertaTokenizer

WORDS = ("a an the of in on at with and to is photo picture image painting cat dog bird horse car truck ship "
         "airplane person man woman face hand leaf bean bottle shirt dress coat shoe bag red green blue white black "
         "yellow small large old new bright dark sky sea grass street house room window table water mountain forest "
         "sunset oil style high quality detailed blurry empty background wall stone wood").split()


def byte_alphabet() -> list[str]:
    """One printable character for each byte, as the byte-level BPE of GPT-2, RoBERTa and CLIP maps them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(code) for code in printable] + [chr(256 + number) for number in range(len(rest))]


def merges() -> list[tuple[str, str]]:
    """BPE merges that join each of WORDS from its first letter on; the last letter carries CLIP's end of word.

    Long words come first: an earlier merge wins, and `at` must not take the end of `cat`.
    """
    found: dict[tuple[str, str], None] = {}
    for word in sorted(WORDS, key=len, reverse=True):
        letters = [*word[:-1], word[-1] + "</w>"]
        for end in range(1, len(letters)):
            found["".join(letters[:end]), letters[end]] = None
    return list(found)


def clip_vocabulary() -> dict[str, int]:
    """The tokens of the CLIP tokenizer; start and end of text have the last two numbers, as in the real one."""
    alphabet = byte_alphabet()
    tokens = [*alphabet, *(character + "</w>" for character in alphabet), *("".join(pair) for pair in merges())]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}


def clip_tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """A CLIP tokenizer of 77 positions."""
    return CLIPTokenizer(vocab=clip_vocabulary(), merges=merges(), model_max_length=77, pad_token=pad)


ROBERTA = {token: number for number, token in enumerate(
    ["<s>", "<pad>", "</s>", "<unk>", *byte_alphabet(), "<mask>"])}


def roberta_tokenizer() -> RobertaTokenizer:
    """A RoBERTa tokenizer that spells everything out in bytes."""
    return RobertaTokenizer(vocab=ROBERTA, merges=[], model_max_length=512)


def gpt2_tokenizer(special: list[str]) -> GPT2Tokenizer:
    """A GPT-2 tokenizer that spells everything out in bytes, with these special tokens behind."""
    vocabulary = {token: number for number, token in enumerate(["<|endoftext|>", *byte_alphabet()])}
    tokenizer = GPT2Tokenizer(vocab=vocabulary, merges=[], model_max_length=8192, pad_token="<|endoftext|>")
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    return tokenizer


def bert_tokenizer() -> BertTokenizer:
    """An uncased BERT tokenizer: common words, and letters that begin or go on."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", * \
        ".,?!'-:", *letters, *(f"##{one}" for one in letters), *WORDS]
    tokens = list(dict.fromkeys(tokens))
    return BertTokenizer(vocab={token: number for number, token in enumerate(tokens)}, model_max_length=512)


def save_old(vocabulary: dict[str, int], pairs: list[tuple[str, str]], folder: Path, **config) -> None:
    """A byte-level tokenizer in the files of transformers before it knew `tokenizer.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in pairs), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    special = {name: value for name, value in config.items() if name.endswith("_token")}
    (folder / "special_tokens_map.json").write_text(json.dumps(special), encoding="utf-8")
