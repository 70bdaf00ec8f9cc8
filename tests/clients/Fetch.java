import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.TreeMap;

/** Asks for each `METHOD URL` among the arguments, and prints status, version and body, and with `--fields` the header's fields after them. */
public class Fetch {
    public static void main(String[] words) throws Exception {
        var client = HttpClient.newHttpClient();
        var fields = words[0].equals("--fields");
        for (int at = fields ? 1 : 0; at + 1 < words.length; at += 2) {
            var body = words[at].equals("POST") ? BodyPublishers.ofString("a body") : BodyPublishers.noBody();
            var request = HttpRequest.newBuilder(URI.create(words[at + 1])).method(words[at], body).build();
            var answer = client.send(request, BodyHandlers.ofString());
            System.out.println(answer.statusCode() + " " + answer.version() + " " + answer.body());
            if (fields) {
                var all = new TreeMap<>(answer.headers().map());
                all.remove("date");
                System.out.println(all);
            }
        }
    }
}
