// Node's own fetch (undici).
async function main() {
  const { METHOD, URL, TOKEN, BODY, TIMES } = process.env;
  const options = { method: METHOD, headers: { Authorization: `Key ${TOKEN}` } };
  if (METHOD === "POST") {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(JSON.parse(BODY));
  }
  for (let i = 0; i < Number(TIMES); i++) await (await fetch(URL, options)).json();
  console.log(process.version.slice(1));
}
main();
