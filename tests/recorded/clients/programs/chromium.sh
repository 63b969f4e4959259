# A browser without a window, which would call itself HeadlessChrome; the recorder ends it.
version=$(chromium --version 2>/dev/null | grep -oE '[0-9.]+' | head -n 1)
echo "$version"
agent="Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/${version%%.*}.0.0.0 Safari/537.36"
exec chromium --headless --no-sandbox --disable-gpu --no-first-run --user-agent="$agent" \
    --user-data-dir="$DIRECTORY" "$PAGE" >/dev/null 2>&1
