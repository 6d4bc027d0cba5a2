"""Small tokenizers of the real kinds: every byte is a token, and common words are tokens of their own."""
from __future__ import annotations

from transformers import CLIPTokenizer, RobertaTokenizer

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


def clip_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer of 77 positions; start and end of text have the last two numbers, as in the real one."""
    alphabet = byte_alphabet()
    tokens = [*alphabet, *(character + "</w>" for character in alphabet), *("".join(pair) for pair in merges())]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=merges(),
                         model_max_length=77)


def roberta_tokenizer() -> RobertaTokenizer:
    """A RoBERTa tokenizer that spells everything out in bytes."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *byte_alphabet()]
    return RobertaTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[])
