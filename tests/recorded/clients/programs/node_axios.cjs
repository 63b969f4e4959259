// axios in Node; NODE_PATH must name the directory in which npm has installed it.
const axios = require("axios");
async function main() {
  const { METHOD, URL, TOKEN, BODY, TIMES } = process.env;
  const data = METHOD === "POST" ? JSON.parse(BODY) : undefined;
  for (let i = 0; i < Number(TIMES); i++) {
    await axios.request({ method: METHOD, url: URL, data, headers: { Authorization: `Key ${TOKEN}` } });
  }
  console.log(axios.VERSION);
}
main();
