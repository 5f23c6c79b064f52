"""Changes of values, texts and bytes: each takes a random number generator and returns a changed copy.

The generator is `random.Random`, or the one that Hypothesis hands out, whose choices it can shrink.
"""

import copy
import json

NAN, INF = float("nan"), float("inf")
NUMBERS = (
    0, -0.0, 1, -1, 2, 3, 0.5, -0.5, 1.5, 7, 255, 256, 1e-9, 1e8, -1e8, 1e13, 1e300, -1e300, 2**31 - 1, 2**31, -(2**31),
    2**32, 2**53 + 1, 2**63 - 1, 2**63, 10**25, 10**400, NAN, INF, -INF, 5e-324, 60000,
)  # fmt: skip
TEXTS = (
    "", " ", "0", "1", "-1", "1.0", "nan", "inf", "1e999", "1_000", "٣", "true", "null", "None", "a", "cat", "cat ",
    "CAT", "a\nb", "a\r\nb", "tab\there", "é", "日本", "\u202etxt.exe", "\ufeffa", "\x00", "a\x00b", "\ud800", "😀",
    "x" * 255, "x" * 5000, "..", "../a.png", "./a.png", "/", "/etc/passwd", "C:\\a\\a.png", "images\\a.png",
    "a%20b.png", "a.png?x=1", "http://x/a.png", "a.PNG", "a", ".", "%s", "{}", "{0.__class__}", "<b>", "' or 1", "=1+1",
    "con", "[1, 2]", "[[", "((", '"', "1.2.3", "4.123456789 5.123456789 6.123456789 7.123456789x",
)  # fmt: skip
ODD = (None, True, False, [], {}, [[]], [None], {"a": 1}, [1, 2, 3], "x", 3, 2.5)


# JSON values ----------------------------------------------------------------------------------------------------


def change_value(value, rng):
    """A JSON value with one change somewhere inside it. The argument stays as it is."""
    value = copy.deepcopy(value)
    places = [((), None, value), *_places(value)]
    path, parent, node = rng.choice(places)
    others = [other for _, _, other in places]
    new = _changed_node(node, rng, others)
    if parent is None:
        return new
    parent[path[-1]] = new
    if rng.random() < 0.15:
        _change_keys(parent, path[-1], rng)
    return value


def _places(value, path=()):
    """(path, parent, node) of every node below a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, node in list(items):
        yield (*path, key), value, node
        yield from _places(node, (*path, key))


def _changed_node(node, rng, others):
    if rng.random() < 0.12:
        return copy.deepcopy(rng.choice(others))
    if rng.random() < 0.08:
        return copy.deepcopy(rng.choice(ODD))
    if isinstance(node, bool) or node is None:
        return rng.choice((True, False, None, 0, 1, "true", "", NAN))
    if isinstance(node, (int, float)):
        return change_number(node, rng)
    if isinstance(node, str):
        return change_word(node, rng)
    return _changed_list(node, rng) if isinstance(node, list) else _changed_dict(node, rng)


def change_number(number, rng):
    """Another number, near or far, or the same as another type."""
    kind = rng.randrange(6)
    if kind < 2:
        return rng.choice(NUMBERS)
    if kind == 2:
        return str(number)
    if kind == 3:
        step = rng.choice((-1, 1, 0.5, -0.25, 10, -30, 1000))
        return number + (step if abs(number) < 1e300 else int(step))
    if kind == 4:
        return -number
    return rng.choice((float(max(-(10**300), min(number, 10**300))), [number], number * 10, bool(number)))


def change_word(text, rng):
    """Another text: one of `TEXTS`, or this one with a piece of another."""
    kind = rng.randrange(5)
    if kind < 2 or not text:
        return rng.choice(TEXTS)
    at = rng.randrange(len(text) + 1)
    if kind == 2:
        return text[:at] + rng.choice(TEXTS) + text[at:]
    if kind == 3:
        return text[:at] + text[at + 1 :]
    return rng.choice((text.upper(), text + text, text[::-1], text.replace("/", "\\"), len(text), [text], text[:at]))


def _changed_list(items, rng):
    items = list(items)
    kind = rng.randrange(9)
    if items and kind < 4:
        at = rng.randrange(len(items))
        if kind == 0:
            del items[at]
        elif kind == 1:
            items.insert(at, copy.deepcopy(items[at]))
        elif kind == 2:
            other = rng.randrange(len(items))
            items[at], items[other] = items[other], items[at]
        else:
            del items[at:]
    elif kind == 4:
        return [items]
    elif kind == 5:
        return rng.choice(([], [[]], items * 30, dict(enumerate(map(str, items)))))
    elif kind == 6:
        return [inner for item in items for inner in (item if isinstance(item, list) else [item])]
    elif kind == 7:
        return [items[k : k + 2] for k in range(0, len(items), 2)]
    elif kind == 8:
        items.append(rng.choice((*ODD, *NUMBERS)))
    return items


def _changed_dict(content, rng):
    content = dict(content)
    key = rng.choice(list(content)) if content else "id"
    kind = rng.randrange(6)
    if kind < 2:
        content.pop(key, None)
    elif kind == 2:
        content[change_key(key, rng)] = content.pop(key, 1)
    elif kind == 3:
        return rng.choice((list(content.values()), list(content), {}, [content], str(content)))
    elif kind == 4:
        other = rng.choice(list(content)) if content else key
        content[key], content[other] = content.get(other), content.get(key)
    else:
        content[rng.choice(TEXTS)] = rng.choice((*ODD, *NUMBERS))
    return content


def _change_keys(parent, key, rng):
    if isinstance(parent, dict):
        parent[change_key(key, rng)] = parent.pop(key)


def change_key(key, rng):
    """Another key of a dictionary, as text."""
    return str(change_word(str(key), rng))


# Text -----------------------------------------------------------------------------------------------------------


def change_text(text, rng):
    """A text of lines with one change: of a token, of a line, or of the text as a whole."""
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(9)
    if kind < 4:
        lines[at] = _changed_tokens(lines[at], rng)
    elif kind == 4:
        del lines[at]
    elif kind == 5:
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif kind == 6:
        lines.insert(at, rng.choice(TEXTS))
    elif kind == 7:
        return text[: rng.randrange(len(text) + 1)]
    else:
        place = rng.randrange(len(text) + 1)
        return (
            text[:place]
            + rng.choice(("\x00", '"', "'", ",", ";", "{", "[", ":", "&a ", "*a", "<", "\t", "\n"))
            + text[place:]
        )
    return "\n".join(lines)


def _changed_tokens(line, rng):
    for separator in rng.sample((",", " ", ";", ":", "=", ">", '"'), 7):
        tokens = line.split(separator)
        if len(tokens) > 1:
            break
    at = rng.randrange(len(tokens))
    kind = rng.randrange(6)
    if kind == 0:
        tokens[at] = str(rng.choice(NUMBERS))
    elif kind == 1:
        tokens[at] = rng.choice(TEXTS)
    elif kind == 2:
        del tokens[at]
    elif kind == 3:
        tokens.insert(at, tokens[rng.randrange(len(tokens))])
    elif kind == 4:
        tokens[at] = str(change_word(tokens[at], rng))
    else:
        tokens = tokens[:at] + tokens[at:] * rng.choice((2, 3, 40))
    return separator.join(tokens)


# Bytes ----------------------------------------------------------------------------------------------------------


def change_bytes(data, rng):
    """Bytes with one change: flipped, cut, repeated, or overwritten by an extreme integer."""
    data = bytearray(data)
    if not data:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(40)))
    at = rng.randrange(min(len(data), 64) if rng.random() < 0.5 else len(data))
    kind = rng.randrange(8)
    if kind == 0:
        del data[at:]
    elif kind == 1:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 2:
        data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    elif kind == 3:
        size = rng.choice((2, 4, 8))
        number = rng.choice(
            (0, 1, 2, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 60000, rng.randrange(2**32))
        )
        number &= 2 ** (8 * size) - 1
        data[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
    elif kind == 4:
        length = rng.randrange(1, 40)
        data[at:at] = data[at : at + length]
    elif kind == 5:
        del data[at : at + rng.randrange(1, 40)]
    elif kind == 6:
        data += bytes(rng.randrange(256) for _ in range(rng.choice((1, 10, 300))))
    else:
        length = rng.randrange(1, 16)
        data[at : at + length] = bytes(rng.randrange(256) for _ in range(length))
    return bytes(data)


def as_json(value, rng):
    """A JSON value as bytes: now and then in another encoding, cut, deeply nested, or with a key twice."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    kind = rng.randrange(60)
    if kind == 0:
        return text.encode(rng.choice(("utf-16", "utf-32", "utf-8-sig", "latin-1", "cp1252")), "replace")
    if kind == 1:
        return text[: rng.randrange(len(text) + 1)].encode("utf-8", "surrogatepass")
    if kind == 2:
        return change_text(text, rng).encode("utf-8", "surrogatepass")
    if kind == 3:
        return change_bytes(text.encode("utf-8", "surrogatepass"), rng)
    if kind == 4:
        depth = rng.choice((100, 2000, 200000))
        deep = "[" * depth + "]" * depth if rng.random() < 0.5 else '{"a":' * depth + "1" + "}" * depth
        return text.replace(rng.choice(("1", "2", "null", '"a"')), deep, 1).encode("utf-8", "surrogatepass")
    if kind == 5:
        at = text.find(":", rng.randrange(len(text)))
        begin = text.rfind('"', 0, max(text.rfind('"', 0, max(at, 0)), 0)) if at > 0 else -1
        return (text if begin < 0 else text[:begin] + text[begin : at + 1] + "1, " + text[begin:]).encode(
            "utf-8", "surrogatepass"
        )
    return text.encode("utf-8", "surrogatepass")
