"""What the server counts, as Prometheus text."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rsqa_pipeline.models.scoring_group import Score

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters of one server, in a registry of its own."""

    def __init__(self, model_version: str) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "rsqa_requests", "Requests by endpoint and HTTP status", ["endpoint", "status"], registry=self._registry
        )
        self.refused = Counter("rsqa_refused", "Refused requests by reason", ["reason"], registry=self._registry)
        self.scores = Counter("rsqa_scores", "Scores given", registry=self._registry)
        self.missing = Counter("rsqa_missing_scores", "Missing scores by reason", ["reason"], registry=self._registry)
        self.seconds = Histogram(
            "rsqa_request_seconds",
            "Time from a request's headers to its reply",
            ["endpoint"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self.batch_texts = Histogram(
            "rsqa_batch_texts", "Texts that a replica took at once", buckets=TEXTS, registry=self._registry
        )
        self.in_flight = Gauge("rsqa_requests_in_flight", "Requests not answered yet", registry=self._registry)
        version = Gauge("rsqa_model_info", "Version of the model", ["version"], registry=self._registry)
        version.labels(model_version).set(1)

    def count_scores(self, scores: list[Score]) -> None:
        for score in scores:
            if score.value is None:
                self.missing.labels(score.reason).inc()
            else:
                self.scores.inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)
