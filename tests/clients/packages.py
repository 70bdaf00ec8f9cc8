"""Makes a directory that a web server shows as two registries: a simple index (PEP 503) below
`simple/`, and npm's documents below `npm/`. Each has the packages `tiny` and `refused`.

Arguments: the directory, and its URL."""
import hashlib
import io
import json
import pathlib
import sys
import tarfile
import zipfile

root, url = pathlib.Path(sys.argv[1]), sys.argv[2]


def write(path, content):
    path = root / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def wheel(name):
    content = io.BytesIO()
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(f"{name}.py", "here = True\n")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return content.getvalue()


def tarball(name):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        about = json.dumps({"name": name, "version": "1.0.0"}).encode()
        entry = tarfile.TarInfo("package/package.json")
        entry.size = len(about)
        archive.addfile(entry, io.BytesIO(about))
    return content.getvalue()


for name in ["tiny", "refused"]:
    file = f"{name}-1.0-py3-none-any.whl"
    content = wheel(name)
    write(f"wheels/{file}", content)
    digest = hashlib.sha256(content).hexdigest()
    write(f"simple/{name}/index.html", f'<a href="{url}/wheels/{file}#sha256={digest}">{file}</a>\n')

    content = tarball(name)
    write(f"tarballs/{name}-1.0.0.tgz", content)
    dist = {"tarball": f"{url}/tarballs/{name}-1.0.0.tgz", "shasum": hashlib.sha1(content).hexdigest()}
    version = {"name": name, "version": "1.0.0", "dist": dist}
    document = {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    write(f"npm/{name}", json.dumps(document))
