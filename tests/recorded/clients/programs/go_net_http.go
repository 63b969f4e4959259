// The client of Go's standard library.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
)

func main() {
	times, _ := strconv.Atoi(os.Getenv("TIMES"))
	for i := 0; i < times; i++ {
		var body io.Reader
		if os.Getenv("METHOD") == "POST" {
			body = strings.NewReader(os.Getenv("BODY"))
		}
		request, err := http.NewRequest(os.Getenv("METHOD"), os.Getenv("URL"), body)
		if err != nil {
			panic(err)
		}
		request.Header.Set("Authorization", "Key "+os.Getenv("TOKEN"))
		if body != nil {
			request.Header.Set("Content-Type", "application/json")
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			panic(err)
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
	}
	fmt.Println(strings.TrimPrefix(runtime.Version(), "go"))
}
