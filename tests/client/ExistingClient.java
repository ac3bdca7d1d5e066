// Sends every request of the client that existed before vmprov with Java's HTTP client, and checks the parts of the
// responses that this client uses.
//   java tests/client/ExistingClient.java URL IMAGE_URL
// Prints a line for each check, and exits with 1 at the first failure. The service must have no VM and no key named
// `existing-…`; the program deletes those that it creates.

import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

class ExistingClient {
    static final String VM = "existing-vm";
    static final String KEY = "existing-key";

    // Without a fixed version, the client prefers HTTP/2 and offers an upgrade to it.
    static final HttpClient CLIENT = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(10)).build();
    static String url;

    public static void main(String[] args) throws Exception {
        url = args[0];
        health();
        keys();
        create(args[1]);
        list();
        power();
        inject();
        errors();
        delete();
    }

    static void health() throws Exception {
        var response = send("GET", "/healthz", null);
        check("healthz is OK", response.statusCode() == 200 && response.body().equals("OK"), response);
        check("healthz is text", type(response).startsWith("text/plain"), response);
    }

    static void keys() throws Exception {
        var created = json(send("POST", "/api/ssh-keys", "{\"name\":\"" + KEY + "\",\"comment\":null}"), 201);
        texts("a key is generated", created, "name", "publicKey", "privateKeyPath", "publicKeyPath");
        check("it has the requested name", KEY.equals(created.get("name")), created);
        check("its comment defaults to its name", created.get("publicKey").toString().endsWith(" " + KEY), created);
        check("it is an RSA key", created.get("publicKey").toString().startsWith("ssh-rsa "), created);
        var listed = named(json(send("GET", "/api/ssh-keys", null), 200), "keys", KEY);
        texts("keys are listed", listed, "name", "publicKeyPath", "privateKeyPath");
        var line = send("GET", "/api/ssh-keys/" + KEY + "/public", null);
        check("a public key is text", line.statusCode() == 200 && type(line).startsWith("text/plain"), line);
        check("it is the generated key", line.body().strip().equals(created.get("publicKey")), line);
        error("no such key", send("GET", "/api/ssh-keys/existing-none/public", null), 404);
    }

    static void create(String image) throws Exception {
        var created = json(send("POST", "/api/vms", newVm(VM, "\"" + image + "\"")), 201);
        vm("a VM is created", created);
        check("it runs", "running".equals(created.get("state")), created);
        var hasSizes = created.get("memory").equals(512.0) && created.get("vcpus").equals(2.0);
        check("it has the requested memory and CPUs", hasSizes, created);
        check("it has no autostart", Boolean.FALSE.equals(created.get("autostart")), created);
    }

    static void list() throws Exception {
        vm("VMs are listed", named(json(send("GET", "/api/vms", null), 200), "vms", VM));
        vm("a VM is shown", json(send("GET", "/api/vms/" + VM, null), 200));
    }

    /** A guest without an operating system ignores a shutdown, so the graceful stop uses a VM that is already off. */
    static void power() throws Exception {
        var started = json(send("POST", "/api/vms/" + VM + "/start", ""), 200);
        check("a VM is started", Map.of("status", "started", "vm", VM).equals(only(started, "status", "vm")), started);
        var forced = send("POST", "/api/vms/" + VM + "/stop?force=true", "");
        var stopped = json(forced, 200);
        check("a VM is stopped", Map.of("status", "stopped", "vm", VM).equals(only(stopped, "status", "vm")), stopped);
        stopped = json(send("POST", "/api/vms/" + VM + "/stop", ""), 200);
        check("and again", Map.of("status", "stopped", "vm", VM).equals(only(stopped, "status", "vm")), stopped);
        var shown = json(send("GET", "/api/vms/" + VM, null), 200);
        check("it is off", "shut off".equals(shown.get("state")), shown);
    }

    static void inject() throws Exception {
        var injected = json(send("POST", "/api/vms/" + VM + "/ssh-keys/" + KEY, ""), 200);
        var known = Map.of("status", "injected", "vm", VM, "key", KEY);
        check("a key is injected", known.equals(only(injected, "status", "vm", "key")), injected);
    }

    static void errors() throws Exception {
        error("no such VM", send("GET", "/api/vms/existing-none", null), 404);
        for (var verb : List.of("start", "stop", "ssh-keys/" + KEY)) {
            error("no such VM to " + verb, send("POST", "/api/vms/existing-none/" + verb, ""), 404);
        }
        error("no such VM to delete", send("DELETE", "/api/vms/existing-none", null), 404);
        error("no such key to inject", send("POST", "/api/vms/" + VM + "/ssh-keys/existing-none", ""), 404);
        error("an existing VM name", send("POST", "/api/vms", newVm(VM, "null")), 409);
        error("an existing key name", send("POST", "/api/ssh-keys", "{\"name\":\"" + KEY + "\"}"), 409);
        error("an invalid VM name", send("POST", "/api/vms", newVm("../etc", "null")), 400);
        error("an invalid key name", send("POST", "/api/ssh-keys", "{\"name\":\"-x\",\"comment\":null}"), 400);
        error("too little memory", send("POST", "/api/vms", newVm("existing-x", "null").replace("512", "1")), 400);
    }

    static void delete() throws Exception {
        var deleted = json(send("DELETE", "/api/vms/" + VM, null), 200);
        check("a VM is deleted", Map.of("status", "deleted", "vm", VM).equals(only(deleted, "status", "vm")), deleted);
        error("it is gone", send("GET", "/api/vms/" + VM, null), 404);
        // The only request that the existing client does not send. It cleans up.
        json(send("DELETE", "/api/ssh-keys/" + KEY, null), 200);
    }

    static String newVm(String name, String image) {
        return "{\"name\":\"" + name + "\",\"memory\":512,\"vcpus\":2,\"diskSize\":20,\"network\":\"default\",\"imageUrl\":"
                + image + "}";
    }

    /**
     * Sends a request as the client does: unescaped names, no credentials, and a timeout of one minute. An empty string
     * means no body.
     */
    static HttpResponse<String> send(String method, String path, String body) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(url + path)).timeout(Duration.ofSeconds(60));
        if (body != null && !body.isEmpty()) {
            request.header("Content-Type", "application/json");
        }
        request.method(method, body == null || body.isEmpty() ? BodyPublishers.noBody() : BodyPublishers.ofString(body));
        return CLIENT.send(request.build(), BodyHandlers.ofString());
    }

    static String type(HttpResponse<String> response) {
        return response.headers().firstValue("content-type").orElse("");
    }

    static void check(String what, boolean holds, Object actual) {
        if (holds) {
            System.out.println("ok: " + what);
            return;
        }
        var text = actual instanceof HttpResponse<?> response
                ? response.statusCode() + " " + response.body()
                : actual.toString();
        System.out.println("failed: " + what + ": " + text);
        System.exit(1);
    }

    static void vm(String what, Map<String, Object> vm) {
        texts(what, vm, "name", "uuid", "state");
        for (var number : List.of("memory", "vcpus")) {
            check(what + ", with " + number, vm.get(number) instanceof Double, vm);
        }
        check(what + ", with autostart", vm.get("autostart") instanceof Boolean, vm);
        check(what + ", by its name", VM.equals(vm.get("name")), vm);
    }

    static void texts(String what, Map<String, Object> object, String... members) {
        for (var member : members) {
            check(what + ", with " + member, object.get(member) instanceof String, object);
        }
    }

    /** Checks an error: it has the member that the client knows, and tells a model what to do next. */
    static void error(String what, HttpResponse<String> response, int status) {
        check(what + " is " + status, response.statusCode() == status, response);
        check(what + " is a problem", type(response).equals("application/problem+json"), response);
        var problem = object(response.body());
        texts(what, problem, "error", "detail", "hint", "code");
        var detail = problem.get("detail").toString();
        check(what + " says what to do next", detail.contains(problem.get("hint").toString()), response);
    }

    static Map<String, Object> json(HttpResponse<String> response, int status) {
        var what = response.request().method() + " " + response.uri().getPath();
        check(what + " is " + status, response.statusCode() == status, response);
        check("it is JSON", type(response).equals("application/json"), response);
        return object(response.body());
    }

    static Map<String, Object> only(Map<String, Object> object, String... members) {
        var kept = new LinkedHashMap<String, Object>();
        for (var member : members) {
            kept.put(member, object.get(member));
        }
        return kept;
    }

    @SuppressWarnings("unchecked")
    static Map<String, Object> named(Map<String, Object> object, String list, String name) {
        check("there is a list of " + list, object.get(list) instanceof List, object);
        for (var item : (List<Map<String, Object>>) object.get(list)) {
            if (name.equals(item.get("name"))) {
                return item;
            }
        }
        check(name + " is among the " + list, false, object);
        return Map.of();
    }

    @SuppressWarnings("unchecked")
    static Map<String, Object> object(String text) {
        var value = new Json(text).value();
        check("it is an object", value instanceof Map, text);
        return (Map<String, Object>) value;
    }

    /** A minimal JSON parser, because Java's standard library has none. */
    static class Json {
        final String text;
        int at = 0;

        Json(String text) {
            this.text = text;
        }

        Object value() {
            switch (next()) {
                case '{':
                    var object = new LinkedHashMap<String, Object>();
                    for (at++; next() != '}'; skip(',')) {
                        var name = string();
                        skip(':');
                        object.put(name, value());
                    }
                    at++;
                    return object;
                case '[':
                    var list = new ArrayList<Object>();
                    for (at++; next() != ']'; skip(',')) {
                        list.add(value());
                    }
                    at++;
                    return list;
                case '"':
                    return string();
                default:
                    int from = at;
                    while (at < text.length() && ",]} \n".indexOf(text.charAt(at)) < 0) {
                        at++;
                    }
                    var word = text.substring(from, at);
                    return switch (word) {
                        case "null" -> null;
                        case "true", "false" -> Boolean.valueOf(word);
                        default -> Double.valueOf(word);
                    };
            }
        }

        char next() {
            while (Character.isWhitespace(text.charAt(at))) {
                at++;
            }
            return text.charAt(at);
        }

        void skip(char separator) {
            if (next() == separator) {
                at++;
            }
        }

        String string() {
            next();
            var string = new StringBuilder();
            for (at++; text.charAt(at) != '"'; at++) {
                char c = text.charAt(at);
                if (c == '\\') {
                    c = text.charAt(++at);
                    switch (c) {
                        case 'n' -> c = '\n';
                        case 't' -> c = '\t';
                        case 'u' -> {
                            c = (char) Integer.parseInt(text.substring(at + 1, at + 5), 16);
                            at += 4;
                        }
                        default -> {
                        }
                    }
                }
                string.append(c);
            }
            at++;
            return string.toString();
        }
    }
}
