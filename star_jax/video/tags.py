"""Titles, dates and languages: tags of a file that go into the output."""

import av

# Tags that the muxer writes itself, or that describe the source file.
FILE_FACTS = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration", "vendor_id"}
# Statistics of a track from mkvmerge, which do not hold for the new track.
STATISTICS = ("bps", "number_of_", "_statistics", "duration-")
# Tags that MP4's own list of tags can hold; others need the list of free keys.
MP4_TAGS = {
    "title", "artist", "album_artist", "composer", "album", "date", "encoding_tool", "comment",
    "genre", "copyright", "grouping", "lyrics", "description", "synopsis", "show", "episode_id",
    "network", "keywords", "episode_sort", "season_number", "media_type", "hd_video",
    "gapless_playback", "compilation", "track", "disc", "tmpo", "creation_time", "timecode",
    "location",
}  # fmt: skip
# Languages for which QuickTime uses the other code of ISO 639-2.
QUICKTIME_LANGUAGES = {
    "deu": "ger", "fre": "fra", "cze": "ces", "zho": "chi", "nld": "dut", "ell": "gre", "fas": "per",
    "isl": "ice", "mkd": "mac", "msa": "may", "mya": "bur", "rum": "ron", "slo": "slk", "sqi": "alb",
    "bod": "tib", "eus": "baq", "cym": "wel", "hye": "arm", "kat": "geo", "swe": "sve", "nob": "nor", "nno": "nor",
}  # fmt: skip
# Languages that QuickTime supports (tried with FFmpeg's muxer; with others, a track has no language).
KNOWN_TO_QUICKTIME = {
    "eng", "fra", "ger", "ita", "dut", "sve", "spa", "dan", "por", "nor", "heb", "jpn", "ara", "fin",
    "gre", "ice", "mlt", "tur", "chi", "urd", "hin", "tha", "kor", "lit", "pol", "hun", "est", "lav",
    "rus", "alb", "ron", "ces", "slk", "slv", "yid", "mac", "bul", "ukr", "bel", "uzb", "kaz", "aze",
    "arm", "geo", "mol", "kir", "tgk", "tuk", "mon", "pus", "kur", "kas", "snd", "tib", "nep", "san",
    "mar", "ben", "asm", "guj", "ori", "mal", "kan", "tam", "tel", "bur", "khm", "lao", "vie", "ind",
    "tgl", "may", "amh", "tir", "orm", "som", "swa", "run", "mlg", "epo", "wel", "baq", "cat", "lat",
    "que", "grn", "aym", "tat", "uig", "dzo", "jav", "sin", "per", "und",
}  # fmt: skip
# Tags that data in the pictures replaces, or that mean something else in the output.
REPLACED = {"rotate", "timecode"}


def kept_tags(tags: dict[str, str]) -> dict[str, str]:
    """The tags that still hold for an upscaled file or track."""
    return {
        key: value
        for key, value in tags.items()
        if key.lower() not in FILE_FACTS | REPLACED and not key.lower().startswith(STATISTICS)
    }


def timecode(container: av.container.InputContainer) -> str | None:
    """Timecode of the first frame, which some files have in a separate track; None if there is none."""
    places = [container.metadata, *(stream.metadata for stream in container.streams)]
    return next((tags[key] for tags in places for key in tags if key.lower() == "timecode"), None)


def free_keys(tags: dict[str, str]) -> list[str]:
    """The tags that MP4's own list of tags would drop; `location-eng` is a copy of `location`."""
    return [
        key
        for key, value in tags.items()
        if key.lower() not in MP4_TAGS and tags.get(key.rpartition("-")[0]) != value
    ]
