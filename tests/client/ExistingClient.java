// Every request of the client that was there before vmprov, as Java's own HTTP client sends it, with what that client
// knows of the answers.
//   java tests/client/ExistingClient.java URL IMAGE_URL
// Prints a line for each check; ends with 1 at the first that fails. The service's own libvirt must have no VM and no
// key named `existing-…`; none of them is there afterwards.

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

    // The version is not named: it prefers HTTP/2, and so offers an upgrade to it.
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
        var answer = send("GET", "/healthz", null);
        is("healthz is OK", answer.statusCode() == 200 && answer.body().equals("OK"), answer);
        is("healthz is text", type(answer).startsWith("text/plain"), answer);
    }

    static void keys() throws Exception {
        var made = json(send("POST", "/api/ssh-keys", "{\"name\":\"" + KEY + "\",\"comment\":null}"), 201);
        texts("a key is made", made, "name", "publicKey", "privateKeyPath", "publicKeyPath");
        is("it has its name", KEY.equals(made.get("name")), made);
        is("its comment is its name", made.get("publicKey").toString().endsWith(" " + KEY), made);
        is("it is an RSA key", made.get("publicKey").toString().startsWith("ssh-rsa "), made);
        var listed = named(json(send("GET", "/api/ssh-keys", null), 200), "keys", KEY);
        texts("keys are listed", listed, "name", "publicKeyPath", "privateKeyPath");
        var line = send("GET", "/api/ssh-keys/" + KEY + "/public", null);
        is("a public key is text", line.statusCode() == 200 && type(line).startsWith("text/plain"), line);
        is("it is that key", line.body().strip().equals(made.get("publicKey")), line);
        error("no such key", send("GET", "/api/ssh-keys/existing-none/public", null), 404);
    }

    static void create(String image) throws Exception {
        var made = json(send("POST", "/api/vms", newVm(VM, "\"" + image + "\"")), 201);
        vm("a VM is created", made);
        is("it runs", "running".equals(made.get("state")), made);
        is("it has what was asked for", made.get("memory").equals(512.0) && made.get("vcpus").equals(2.0), made);
        is("it does not start by itself", Boolean.FALSE.equals(made.get("autostart")), made);
    }

    static void list() throws Exception {
        vm("VMs are listed", named(json(send("GET", "/api/vms", null), 200), "vms", VM));
        vm("a VM is shown", json(send("GET", "/api/vms/" + VM, null), 200));
    }

    /** A guest without a system does not heed a shutdown; what is stopped here is one that was stopped before. */
    static void power() throws Exception {
        var started = json(send("POST", "/api/vms/" + VM + "/start", ""), 200);
        is("a VM is started", Map.of("status", "started", "vm", VM).equals(only(started, "status", "vm")), started);
        var forced = send("POST", "/api/vms/" + VM + "/stop?force=true", "");
        var stopped = json(forced, 200);
        is("a VM is stopped", Map.of("status", "stopped", "vm", VM).equals(only(stopped, "status", "vm")), stopped);
        stopped = json(send("POST", "/api/vms/" + VM + "/stop", ""), 200);
        is("and again", Map.of("status", "stopped", "vm", VM).equals(only(stopped, "status", "vm")), stopped);
        var shown = json(send("GET", "/api/vms/" + VM, null), 200);
        is("it is off", "shut off".equals(shown.get("state")), shown);
    }

    static void inject() throws Exception {
        var injected = json(send("POST", "/api/vms/" + VM + "/ssh-keys/" + KEY, ""), 200);
        var known = Map.of("status", "injected", "vm", VM, "key", KEY);
        is("a key is injected", known.equals(only(injected, "status", "vm", "key")), injected);
    }

    static void errors() throws Exception {
        error("no such VM", send("GET", "/api/vms/existing-none", null), 404);
        for (var verb : List.of("start", "stop", "ssh-keys/" + KEY)) {
            error("no such VM to " + verb, send("POST", "/api/vms/existing-none/" + verb, ""), 404);
        }
        error("no such VM to delete", send("DELETE", "/api/vms/existing-none", null), 404);
        error("no such key to inject", send("POST", "/api/vms/" + VM + "/ssh-keys/existing-none", ""), 404);
        error("a name that is taken", send("POST", "/api/vms", newVm(VM, "null")), 409);
        error("a key's name that is taken", send("POST", "/api/ssh-keys", "{\"name\":\"" + KEY + "\"}"), 409);
        error("a bad name", send("POST", "/api/vms", newVm("../etc", "null")), 400);
        error("a key's bad name", send("POST", "/api/ssh-keys", "{\"name\":\"-x\",\"comment\":null}"), 400);
        error("too little memory", send("POST", "/api/vms", newVm("existing-x", "null").replace("512", "1")), 400);
    }

    static void delete() throws Exception {
        var deleted = json(send("DELETE", "/api/vms/" + VM, null), 200);
        is("a VM is deleted", Map.of("status", "deleted", "vm", VM).equals(only(deleted, "status", "vm")), deleted);
        error("it is gone", send("GET", "/api/vms/" + VM, null), 404);
        // The one request of this file that the old client does not have: it could not tidy up.
        json(send("DELETE", "/api/ssh-keys/" + KEY, null), 200);
    }

    static String newVm(String name, String image) {
        return "{\"name\":\"" + name + "\",\"memory\":512,\"vcpus\":2,\"diskSize\":20,\"network\":\"default\",\"imageUrl\":"
                + image + "}";
    }

    /** Sends as the client does: names as they are, no credentials, at most a minute. An empty body is none. */
    static HttpResponse<String> send(String method, String path, String body) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(url + path)).timeout(Duration.ofSeconds(60));
        if (body != null && !body.isEmpty()) {
            request.header("Content-Type", "application/json");
        }
        request.method(method, body == null || body.isEmpty() ? BodyPublishers.noBody() : BodyPublishers.ofString(body));
        return CLIENT.send(request.build(), BodyHandlers.ofString());
    }

    static String type(HttpResponse<String> answer) {
        return answer.headers().firstValue("content-type").orElse("");
    }

    static void is(String what, boolean so, Object seen) {
        if (so) {
            System.out.println("ok: " + what);
            return;
        }
        var text = seen instanceof HttpResponse<?> answer ? answer.statusCode() + " " + answer.body() : seen.toString();
        System.out.println("NOT: " + what + ": " + text);
        System.exit(1);
    }

    static void vm(String what, Map<String, Object> vm) {
        texts(what, vm, "name", "uuid", "state");
        for (var number : List.of("memory", "vcpus")) {
            is(what + ", with " + number, vm.get(number) instanceof Double, vm);
        }
        is(what + ", with autostart", vm.get("autostart") instanceof Boolean, vm);
        is(what + ", by its name", VM.equals(vm.get("name")), vm);
    }

    static void texts(String what, Map<String, Object> object, String... members) {
        for (var member : members) {
            is(what + ", with " + member, object.get(member) instanceof String, object);
        }
    }

    /** The body of an error is what a model reads: it has the old member, and says what to do next. */
    static void error(String what, HttpResponse<String> answer, int status) {
        is(what + " is " + status, answer.statusCode() == status, answer);
        is(what + " is a problem", type(answer).equals("application/problem+json"), answer);
        var problem = object(answer.body());
        texts(what, problem, "error", "detail", "hint", "code");
        is(what + " says what to do next", problem.get("detail").toString().contains(problem.get("hint").toString()), answer);
    }

    static Map<String, Object> json(HttpResponse<String> answer, int status) {
        is(answer.request().method() + " " + answer.uri().getPath() + " is " + status, answer.statusCode() == status, answer);
        is("it is JSON", type(answer).equals("application/json"), answer);
        return object(answer.body());
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
        is("there is a list of " + list, object.get(list) instanceof List, object);
        for (var item : (List<Map<String, Object>>) object.get(list)) {
            if (name.equals(item.get("name"))) {
                return item;
            }
        }
        is(name + " is among the " + list, false, object);
        return Map.of();
    }

    @SuppressWarnings("unchecked")
    static Map<String, Object> object(String text) {
        var value = new Json(text).value();
        is("it is an object", value instanceof Map, text);
        return (Map<String, Object>) value;
    }

    /** JSON, as much of it as is needed; Java has none of its own. */
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

        void skip(char mark) {
            if (next() == mark) {
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
