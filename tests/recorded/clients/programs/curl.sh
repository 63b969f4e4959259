# The command line's curl, as people paste it.
options=(-sS -H "Authorization: Key $TOKEN")
if [[ "$METHOD" == POST ]]; then options+=(-H "Content-Type: application/json" -d "$BODY"); fi
urls=()
for ((i = 0; i < TIMES; i++)); do urls+=("$URL"); done
curl "${options[@]}" "${urls[@]}" >/dev/null
curl --version | head -n 1 | cut -d' ' -f2
