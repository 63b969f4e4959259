options=(-q -O /dev/null --header "Authorization: Key $TOKEN")
if [[ "$METHOD" == POST ]]; then options+=(--header "Content-Type: application/json" --post-data "$BODY"); fi
urls=()
for ((i = 0; i < TIMES; i++)); do urls+=("$URL"); done
wget "${options[@]}" "${urls[@]}"
wget --version | head -n 1 | cut -d' ' -f3
