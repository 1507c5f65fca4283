"""The random numbers of the samples, from the published algorithms, in Python's unbounded whole numbers.

SeedSequence is O'Neill's seed_seq as NumPy specifies it; splitmix64 is Steele, Lea and Flood (2014).
"""

_32, _64 = 2**32 - 1, 2**64 - 1


def seed_sequence(entropy):
    """First 64-bit word of ``numpy.random.SeedSequence(entropy)``."""
    words = []
    for number in entropy:
        words.append(number & _32)
        while number > _32:
            number >>= 32
            words.append(number & _32)
    const = 0x43B0D7E5

    def hashed(value):
        nonlocal const
        value = (value ^ const) & _32
        const = (const * 0x931E8875) & _32
        value = (value * const) & _32
        return value ^ (value >> 16)

    def mixed(x, y):
        value = (0xCA01F9DD * x - 0x4973F715 * y) & _32
        return value ^ (value >> 16)

    pool = [hashed(words[i] if i < len(words) else 0) for i in range(4)]
    for source in range(4):
        for target in range(4):
            if source != target:
                pool[target] = mixed(pool[target], hashed(pool[source]))
    for word in words[4:]:
        for target in range(4):
            pool[target] = mixed(pool[target], hashed(word))
    out, const = [], 0x8B51F9DD
    for value in pool[:2]:
        value ^= const
        const = (const * 0x58F38DED) & _32
        value = (value * const) & _32
        out.append(value ^ (value >> 16))
    return out[0] | out[1] << 32


def name_word(text):
    """FNV-1a, 32 bits."""
    value = 2166136261
    for byte in text.encode("utf-8"):
        value = ((value ^ byte) * 16777619) % 2**32
    return value


def key_of(seed, *words):
    """The key of (seed, words): every word plus one, zeros up to six numbers."""
    numbers = [seed] + [w + 1 for w in words]
    return seed_sequence(numbers + [0] * (6 - len(numbers)))


def splitmix64(state):
    """The finaliser of splitmix64."""
    z = state & _64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _64
    return z ^ (z >> 31)


def hash_id(key, number):
    """The hash of one id: splitmix64 of the key plus ``number`` golden-ratio steps."""
    return splitmix64(key + number * 0x9E3779B97F4A7C15)


def sample(seed, part, epoch, node_type, count, quota):
    """The ``quota`` ids below ``count`` with the smallest hashes, ties by id; ascending."""
    key = key_of(seed, part, epoch, name_word(node_type))
    return sorted(sorted(range(count), key=lambda i: (hash_id(key, i), i))[:quota])
