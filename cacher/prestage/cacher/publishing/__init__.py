"""Publishing: a directory becomes a prefix with a version, and goes on where it was cut off.

prefix      what is uploaded, in which order, and the manifest that makes it a version
contents    what a file's bytes are, part by part
going_on    which unfinished upload holds a beginning of them (pure)
uploading   one file to one object, in parts
client      boto3's client, and its failures as ours
"""

from prestage.cacher.publishing.client import open_client
from prestage.cacher.publishing.prefix import Published, publish

__all__ = ["Published", "open_client", "publish"]
