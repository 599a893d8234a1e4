"""A server on loopback that gives everybody the same answer."""

import contextlib
import http.server
import threading


@contextlib.contextmanager
def answering(code, text):
    """Address of an MLflow that answers everything so."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_PATCH = do_PUT = do_GET

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def refusing_server():
    """An MLflow that refuses the password."""
    return answering(401, "You are not authenticated.")
