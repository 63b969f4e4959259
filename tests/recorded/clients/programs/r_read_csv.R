# R's read.csv by URL: the client that is part of R.
for (i in seq_len(as.integer(Sys.getenv("TIMES")))) invisible(read.csv(Sys.getenv("URL")))
cat(as.character(getRversion()), "\n")
