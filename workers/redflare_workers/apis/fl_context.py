"""``FLContext``: the properties that components of a run share, and ``FLContextManager``, which keeps the sticky ones.

After NVFlare's ``fl_context``. A prop is private (stays in this process) or public (peers get it too), and sticky (all
contexts of the run see its newest value) or not (this context only). Which of the four a prop is cannot change.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple

from .fl_constant import ReservedKey

logger = logging.getLogger(__name__)


class _Prop(NamedTuple):
    value: Any
    private: bool
    sticky: bool

    def same_kind(self, other: _Prop) -> bool:
        return (self.private, self.sticky) == (other.private, other.sticky)

    @property
    def kind(self) -> str:
        return f"{'private' if self.private else 'public'}:{'sticky' if self.sticky else 'non-sticky'}"


class FLContext:
    """Properties of one piece of work; made by an engine's ``new_context()`` and usable in a ``with``."""

    def __init__(self) -> None:
        # taken before the manager's lock, never the other way round
        self._lock = threading.RLock()
        self._props: dict[str, _Prop] = {}

    def __repr__(self) -> str:
        return f"FLContext(identity={self.get_identity_name()!r}, job={self.get_job_id()!r}, props={len(self._props)})"

    def __str__(self) -> str:
        with self._lock:
            return " ".join(f"{key}: {type(prop.value).__name__}" for key, prop in self._props.items())

    def __enter__(self) -> FLContext:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Do nothing: sticky props are always up to date."""

    def set_prop(self, key: str, value: Any, private: bool = True, sticky: bool = True) -> bool:
        """Set a prop.

        Returns:
            False, after a warning, if the prop exists and is of another kind; it is left as it was.

        Raises:
            ValueError: the key is not a str.
        """
        if not isinstance(key, str):
            raise ValueError(f"the key of a prop must be a str, but is {key!r} ({type(key).__name__})")
        prop = _Prop(value, private, sticky)
        with self._lock:
            existing = self._props.get(key)
            manager = self._manager()
            if sticky and manager is not None and (existing is None or existing.same_kind(prop)):
                existing = manager._stick(key, prop)
            if existing is not None and not existing.same_kind(prop):
                logger.warning(
                    "prop %r stays %s and its value is kept: cannot make it %s", key, existing.kind, prop.kind
                )
                return False
            self._props[key] = prop
            return True

    def put(self, key: str, value: Any, private: bool, sticky: bool) -> None:
        """Set a prop in this context alone, whatever it was before and even if it is sticky."""
        with self._lock:
            self._props[key] = _Prop(value, private, sticky)

    def get_prop(self, key: str, default: Any = None) -> Any:
        """Return the value of a prop, of a sticky one the newest of the run, or ``default``."""
        prop = self._find(key)
        return default if prop is None else prop.value

    def get_prop_detail(self, key: str) -> dict[str, Any] | None:
        """``{"value": ..., "private": bool, "sticky": bool}``, or None."""
        prop = self._find(key)
        return None if prop is None else {"value": prop.value, "private": prop.private, "sticky": prop.sticky}

    def get_prop_keys(self) -> list[str]:
        """Keys of the props that were set or read in this context."""
        with self._lock:
            return list(self._props)

    def remove_prop(self, key: str, force_removal: bool = False) -> None:
        """Remove a prop from this context, not from the run; one whose key starts with ``__`` only by force."""
        if isinstance(key, str) and (force_removal or not key.startswith("__")):
            with self._lock:
                self._props.pop(key, None)

    def public_key_exists(self, key: str) -> bool:
        """Whether this context has a public prop of that name."""
        with self._lock:
            prop = self._props.get(key)
        return prop is not None and not prop.private

    def get_all_public_props(self) -> dict[str, Any]:
        """All public props; peers get them."""
        with self._lock:
            return {key: self.get_prop(key) for key, prop in list(self._props.items()) if not prop.private}

    def set_public_props(self, metadata: Mapping[str, Any]) -> None:
        """Replace all public props of this context by those in ``metadata``, as non-sticky ones."""
        with self._lock:
            self._props = {key: prop for key, prop in self._props.items() if prop.private}
            for key, value in metadata.items():
                self.set_prop(key, value, private=False, sticky=False)

    def get_custom_prop(self, key: str, default: Any = None) -> Any:
        """One value of the application's own corner, or ``default``."""
        return (self.get_prop(ReservedKey.CUSTOM_PROPS) or {}).get(key, default)

    def set_custom_prop(self, key: str, value: Any) -> None:
        """Set a value in the application's own corner; private and not sticky."""
        with self._lock:
            props = self.get_prop(ReservedKey.CUSTOM_PROPS) or {}
            self.set_prop(ReservedKey.CUSTOM_PROPS, {**props, key: value}, private=True, sticky=False)

    def get_engine(self, default: Any = None) -> Any:
        """Return the engine this process runs on, or ``default``."""
        return self.get_prop(ReservedKey.ENGINE, default)

    def get_process_type(self, default: Any = None) -> Any:
        """One of ``ProcessType``, or ``default``."""
        return self.get_prop(ReservedKey.PROCESS_TYPE, default)

    def get_job_id(self, default: Any = None) -> Any:
        """Return the id of the running job, or ``default``."""
        return self.get_prop(ReservedKey.RUN_NUM, default)

    def get_identity_name(self, default: str = "") -> Any:
        """Return the name of this site or server, or ``default``."""
        return self.get_prop(ReservedKey.IDENTITY_NAME, default)

    def get_run_abort_signal(self) -> Any:
        """Return the ``Signal`` that ends the whole run, or None."""
        return self.get_prop(ReservedKey.RUN_ABORT_SIGNAL)

    def get_workspace(self) -> Any:
        """Return the ``Workspace`` of this process, or None."""
        return self.get_prop(ReservedKey.WORKSPACE_OBJECT)

    def sync_sticky(self) -> None:
        """Do nothing: sticky props are always up to date. NVFlare's components call it."""

    def set_job_is_unsafe(self, value: bool = True) -> None:
        """Mark the running job as unsafe."""
        self.set_prop(ReservedKey.JOB_IS_UNSAFE, value, private=True, sticky=True)

    def is_job_unsafe(self) -> bool:
        """Whether the running job was marked as unsafe."""
        return bool(self.get_prop(ReservedKey.JOB_IS_UNSAFE, False))

    def set_peer_context(self, ctx: FLContext | None) -> None:
        """Set the context of the peer whose message is being handled."""
        self.put(ReservedKey.PEER_CTX, ctx, private=True, sticky=False)

    def get_peer_context(self) -> FLContext | None:
        """Return the context of the peer whose message is being handled, or None."""
        peer_ctx = self.get_prop(ReservedKey.PEER_CTX)
        return peer_ctx if isinstance(peer_ctx, FLContext) else None

    def clone(self) -> FLContext:
        """Return a new context with the same props; values are shared, not copied."""
        clone = FLContext()
        with self._lock:
            clone._props = dict(self._props)
        return clone

    def _manager(self) -> FLContextManager | None:
        prop = self._props.get(ReservedKey.MANAGER)
        return prop.value if prop is not None and isinstance(prop.value, FLContextManager) else None

    def _find(self, key: str) -> _Prop | None:
        with self._lock:
            prop = self._props.get(key)
            manager = self._manager()
            if manager is not None and (prop is None or prop.sticky):
                sticker = manager._sticker(key)
                if sticker is not None:
                    self._props[key] = prop = sticker
            return prop


class FLContextManager:
    """Makes the contexts of one run and keeps its sticky props.

    Args:
        engine: returned by ``fl_ctx.get_engine()``; has ``fire_event(event_type, fl_ctx)``.
        identity_name: name of this site or server.
        public_stickers, private_stickers: initial sticky props.
    """

    def __init__(
        self,
        engine: Any = None,
        identity_name: str = "",
        job_id: str = "",
        public_stickers: Mapping[str, Any] | None = None,
        private_stickers: Mapping[str, Any] | None = None,
    ) -> None:
        self.identity_name = identity_name
        self.job_id = job_id
        #: what every context begins with, beside the sticky props
        self._identity = {
            ReservedKey.MANAGER: _Prop(self, private=True, sticky=False),
            ReservedKey.ENGINE: _Prop(engine, private=True, sticky=False),
            ReservedKey.RUN_NUM: _Prop(job_id, private=False, sticky=True),
        }
        if identity_name:
            self._identity[ReservedKey.IDENTITY_NAME] = _Prop(identity_name, private=False, sticky=False)
        self._lock = threading.Lock()
        self._stickers: dict[str, _Prop] = {}
        for stickers, private in ((public_stickers, False), (private_stickers, True)):
            for key, value in (stickers or {}).items():
                self._stickers[key] = _Prop(value, private, sticky=True)

    def __repr__(self) -> str:
        return f"FLContextManager(identity={self.identity_name!r}, job={self.job_id!r}, stickers={len(self._stickers)})"

    def new_context(self) -> FLContext:
        """Make a context with the run's identity and its sticky props."""
        ctx = FLContext()
        # no other thread has it yet, and every step of a run makes one: so no lock is taken for each prop
        with self._lock:
            ctx._props = self._identity | self._stickers
        return ctx

    def _sticker(self, key: str) -> _Prop | None:
        with self._lock:
            return self._stickers.get(key)

    def _stick(self, key: str, prop: _Prop) -> _Prop:
        """Keep ``prop``, unless one of another kind is kept already. Returns the one that is kept."""
        with self._lock:
            existing = self._stickers.get(key)
            if existing is None or existing.same_kind(prop):
                self._stickers[key] = existing = prop
            return existing
