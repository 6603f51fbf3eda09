"""Print the installed versions as a constraints file: names and versions, nothing else."""

from importlib.metadata import distributions

print("# Made by `make constraints`: the versions that the checks and tests ran with.")
seen = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in distributions()}
for name in sorted(seen.keys() - {"everfresh", "pip", "setuptools", "wheel"}):
    print(f"{name}=={seen[name]}")
