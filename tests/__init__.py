import sys

# An optional part of jsonschema that nothing here uses: importing it takes two seconds at the start of each process.
sys.modules.setdefault("rfc3987_syntax", None)
