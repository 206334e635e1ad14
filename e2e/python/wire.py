"""How messages travel, and what proves them: docs/protocol.md, "Framing" and "The MAC of a result"."""
import base64
import hashlib
import hmac
import struct

import msgpack
import zstandard

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
COMPRESSED_FROM_BYTES = 16 * 1024
PLAIN, ZSTD = b"\x01", b"\x02"
SEALED = ("attempt contextUpdates cost error events metadata nextStepOverride outcome output "
          "resumeToken retryAfterMs rows taskId waitReason waitUntil").split()


class Unreadable(Exception):
    """The bytes are no message that this program understands."""


def decode(data):
    """The message in `data`. Raises `Unreadable`."""
    tag, body = data[:1], data[1:]
    try:
        if tag == ZSTD:
            if zstandard.frame_content_size(body) >= MESSAGE_BYTES_MAX:
                raise Unreadable("the message is too large")
            body = zstandard.ZstdDecompressor().decompress(body, max_output_size=MESSAGE_BYTES_MAX)
        elif tag != PLAIN:
            raise Unreadable(f"the message has the unknown format {tag}")
        message = msgpack.unpackb(body)
        if message["v"] > 1:
            raise Unreadable(f'the message has the protocol version {message["v"]}')
    except (ValueError, KeyError, TypeError, zstandard.ZstdError) as error:
        raise Unreadable(str(error)) from error
    return message


def encode(message):
    """`message` as it travels. Raises `ValueError` or `OverflowError` for what cannot."""
    body = msgpack.packb(message)
    if len(body) >= MESSAGE_BYTES_MAX:
        raise ValueError("the message is too large")
    if len(body) >= COMPRESSED_FROM_BYTES:
        frame = zstandard.ZstdCompressor(level=1).compress(body)
        if len(frame) < len(body):
            return ZSTD + frame
    return PLAIN + body


def canonical(v):
    if v is None: return b"n"
    if v is True: return b"t"
    if v is False: return b"f"
    if isinstance(v, float):
        if v.is_integer() and abs(v) < 2**53: v = int(v)
        else: return b"d" + struct.pack(">d", v)
    if isinstance(v, int): return b"i%d;" % v
    if isinstance(v, str): return b"s%d:" % len(v.encode()) + v.encode()
    if isinstance(v, list): return b"[%d:" % len(v) + b"".join(map(canonical, v))
    keys = sorted(v, key=str.encode)
    return b"{%d:" % len(v) + b"".join(canonical(k) + canonical(v[k]) for k in keys)


def mac(result, token):
    """The `mac` of a result, made with the token of its task."""
    head, secret = token.rsplit(".", 1)
    text = b"flowmonkey.result.v1\n" + canonical({k: result[k] for k in SEALED if k in result})
    tag = hmac.new(secret.encode(), text, hashlib.sha256).digest()
    return head + "." + base64.urlsafe_b64encode(tag).rstrip(b"=").decode()
