# R with httr2.
suppressMessages(library(httr2))
wanted <- req_headers(request(Sys.getenv("URL")), Authorization = paste("Key", Sys.getenv("TOKEN")))
if (Sys.getenv("METHOD") == "POST") {
  wanted <- req_body_raw(wanted, Sys.getenv("BODY"), type = "application/json")
}
for (i in seq_len(as.integer(Sys.getenv("TIMES")))) invisible(req_perform(wanted))
cat(as.character(packageVersion("httr2")), "\n")
