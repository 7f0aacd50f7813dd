#!/usr/bin/env bash
# make dist: static binaries, Debian packages, SBOMs and checksums, in dist/. The same
# commit and the same Go give the same bytes, wherever they are made.
set -euo pipefail
cd "$(dirname "$0")/.."

nfpm=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.0
cyclonedx=github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0

: "${GO:=go}" "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct)}"
export SOURCE_DATE_EPOCH LC_ALL=C
export CGO_ENABLED=0 GOFLAGS='-trimpath -buildvcs=false' GOWORK=off GOAMD64=v1 GOARM64=v8.0
umask 022

# Debian sorts a ~ before the release, a + after it. A version begins with a digit.
case $VERSION in
v[0-9]*) DEB_VERSION=$(sed 's/^v//; s/-rc/~rc/; s/-\([0-9]*-g\)/+\1/; s/-/./g' <<<"$VERSION") ;;
*) DEB_VERSION=0~$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S).${VERSION//-/.} ;;
esac
export DEB_VERSION

rm -rf dist
mkdir dist
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
export PARTS=$parts

binary() { echo "dist/tcptrace-$VERSION-linux-$1"; }
for arch in amd64 arm64; do
	GOOS=linux GOARCH=$arch $GO build -ldflags "$LDFLAGS" -o "$(binary $arch)" ./cmd/tcptrace
done

# Most licenses want to go with the binary.
third_parties() {
	echo "tcptrace has parts of Go and of the modules below, which are under these licenses."
	printf '\n==== Go %s\n\n' "$($GO env GOVERSION)"
	cat "$($GO env GOROOT)/LICENSE"
	for arch in amd64 arm64; do
		GOOS=linux GOARCH=$arch $GO list -deps -f \
			'{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}} {{$.Dir}}{{end}}{{end}}' ./cmd/tcptrace
	done | sort -u | while read -r module version dir package; do
		find "$dir" "$package" -maxdepth 1 -type f \
			\( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'notice*' \) |
			while read -r file; do echo "$module $version $file ${file#"$dir"/}"; done
	done | sort -u | while read -r module version file name; do
		printf '\n==== %s %s: %s\n\n' "$module" "$version" "$name"
		cat "$file"
	done
}
third_parties >"dist/tcptrace-$VERSION-licenses.txt"
gzip -9n <"dist/tcptrace-$VERSION-licenses.txt" >"$parts/licenses.gz"
gzip -9n <CHANGELOG.md >"$parts/changelog.gz"
gzip -9n <docs/tcptrace.8 >"$parts/tcptrace.8.gz"
for shell in bash zsh fish; do
	"$(binary "$($GO env GOHOSTARCH)")" completion $shell >"$parts/$shell"
done

for arch in amd64 arm64; do
	sbom=$(binary $arch).cdx.json
	$GO run $cyclonedx bin -json -noserial -std -version "$VERSION" -output "$sbom" "$(binary $arch)"
	sed -i 's/"timestamp": "[^"]*"/"timestamp": "'"$(date -u -d "@$SOURCE_DATE_EPOCH" +%FT%TZ)"'"/' "$sbom"
	ARCH=$arch BINARY=$(binary $arch) $GO run $nfpm package -f deploy/nfpm.yml -p deb -t dist >/dev/null
done

cd dist
sha256sum -- * >"$parts/sums"
mv "$parts/sums" SHA256SUMS
cat SHA256SUMS
