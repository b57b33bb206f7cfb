"""Reads `--monitoring_config_file`: monitoring_config.proto, of which only Prometheus is supported."""

import re

from contract_server import errors

PATH = "/monitoring/prometheus/metrics"
PROMETHEUS = re.compile(r"\s*prometheus_config\s*:?\s*{(.*?)}\s*[,;]?\s*", re.DOTALL)
FIELD = re.compile(r"""\s*(?:enable\s*:\s*(?P<enable>true|false)|path\s*:\s*["'](?P<path>[^"']*)["'])\s*[,;]?\s*""")


def read(path):
    """Returns the path of the metrics, or None if they are off; an unknown field is an error, as in TF Serving."""
    with open(path, encoding="utf-8") as file:
        text = re.sub("#.*", "", file.read())
    if not text.strip():
        return None
    found = PROMETHEUS.fullmatch(text)
    values, position = {}, 0
    while found and found[1][position:].strip():
        match = FIELD.match(found[1], position)
        if not match:
            break
        values.update({name: value for name, value in match.groupdict().items() if value is not None})
        position = match.end()
    if not found or found[1][position:].strip():
        raise errors.invalid(f"{path}: not a monitoring configuration: {text.strip()[:60]!r}")
    return (values.get("path") or PATH) if values.get("enable") == "true" else None
