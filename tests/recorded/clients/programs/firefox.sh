# A browser without a window; the recorder ends it.
firefox-esr --version | grep -oE '[0-9.]+' | head -n 1
HOME=$DIRECTORY exec firefox-esr --headless --no-remote --profile "$DIRECTORY" "$PAGE" >/dev/null 2>&1
