"""Stage: the held latents that matter most, with the contexts in which they are most active."""

from saeaudit.audit.choice import ChoiceRecord
from saeaudit.audit.latent_views import N_LATENTS, Judged, latent_views
from saeaudit.audit.session import Session
from saeaudit.audit.stages import Record
from saeaudit.findings import LatentView


class ExhibitRecord(Record):
    """Latents as the report shows them."""

    latents: list[LatentView]


def exhibit_stage(session: Session, choice: ChoiceRecord) -> ExhibitRecord:
    """Collect once; the record is reused."""
    inputs = session.identity("exhibits", choice.site, choice.latents, session.config.dictionary.model_dump())
    return session.stages.run("exhibits", inputs, ExhibitRecord, lambda: _exhibit(session, choice))


def _exhibit(session: Session, choice: ChoiceRecord) -> ExhibitRecord:
    data, test = session.data, session.data.roles["test"]
    judged = Judged(test, data.label[test], data.group[test])
    return ExhibitRecord(latents=latent_views(session, choice.site, choice.latents[:N_LATENTS], judged, ablated=True))
