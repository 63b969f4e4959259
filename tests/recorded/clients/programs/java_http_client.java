// Java's own HttpClient; by default it asks a server without TLS for an upgrade to HTTP/2.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

class Recorded {
    public static void main(String[] arguments) throws Exception {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(System.getenv("URL")))
            .header("Authorization", "Key " + System.getenv("TOKEN"));
        if (System.getenv("METHOD").equals("POST")) {
            request.header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(System.getenv("BODY")));
        }
        HttpClient client = HttpClient.newHttpClient();
        for (int i = 0; i < Integer.parseInt(System.getenv("TIMES")); i++) {
            client.send(request.build(), HttpResponse.BodyHandlers.ofString());
        }
        System.out.println(System.getProperty("java.version"));
    }
}
