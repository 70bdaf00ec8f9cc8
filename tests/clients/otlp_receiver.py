"""A collector that prints what it gets: `otlp_receiver.py PORT [hang]`.

Each span and each data point is a line of JSON. With `hang` it takes connections and answers none.
"""
import json
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def value(it):
    kind = it.WhichOneof("value")
    return [value(one) for one in it.array_value.values] if kind == "array_value" else getattr(it, kind)


def attributes(of):
    return {it.key: value(it.value) for it in of}


def say(**what):
    print(json.dumps(what, sort_keys=True), flush=True)


def metrics(request):
    for resource in request.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                data = getattr(metric, metric.WhichOneof("data"))
                for point in data.data_points:
                    if metric.HasField("histogram"):
                        number = [point.count, point.sum]
                    else:
                        number = getattr(point, point.WhichOneof("value"))
                    say(metric=metric.name, unit=metric.unit, attributes=attributes(point.attributes), value=number,
                        service=attributes(resource.resource.attributes)["service.name"])


def spans(request):
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                say(span=span.name, trace=span.trace_id.hex(), parent=span.parent_span_id.hex(),
                    attributes=attributes(span.attributes), error=span.status.code == 2,
                    nanos=span.end_time_unix_nano - span.start_time_unix_nano,
                    links=[[it.trace_id.hex(), it.span_id.hex(), attributes(it.attributes)] for it in span.links])


class Collector(BaseHTTPRequestHandler):
    def do_POST(self):
        content = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/v1/metrics":
            metrics(ExportMetricsServiceRequest.FromString(content))
        elif self.path == "/v1/traces":
            spans(ExportTraceServiceRequest.FromString(content))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


port = int(sys.argv[1])
if sys.argv[2:] == ["hang"]:
    listener = socket.create_server(("127.0.0.1", port))
    print("serving", flush=True)
    taken = []
    while True:
        taken.append(listener.accept())
else:
    server = ThreadingHTTPServer(("127.0.0.1", port), Collector)
    print("serving", flush=True)
    server.serve_forever()
