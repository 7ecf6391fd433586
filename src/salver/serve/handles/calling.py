"""From a handle, its options and arguments to a call on its way."""

from __future__ import annotations

from typing import Any

from salver.data.calls.call import Call, Send
from salver.data.calls.streamed_call import StreamedCall
from salver.data.context import RequestContext, new_request_id, request_context
from salver.data.current import call_site
from salver.serve.handles.arguments import dump_arguments, hold_response, start_when_resolved
from salver.serve.handles.options import HandleOptions
from salver.serve.handles.response import DeploymentResponse, DeploymentResponseGenerator
from salver.wire.messages import CallMeta
from salver.wire.payload import dump_plain_arguments


def begin_call(
    key: str, options: HandleOptions, args: tuple[Any, ...], kwargs: dict[str, Any], send: Send | None = None
) -> DeploymentResponse[Any] | DeploymentResponseGenerator[Any]:
    """Call the deployment ``key`` (``app#name``), from any thread.

    Args:
        send: how it is sent, on the loop of the call site; by default to any replica.

    Raises:
        SerializationError: an argument cannot be pickled.
        RuntimeError: an argument is a stream.
    """
    site = call_site()
    payload = dump_plain_arguments(args, kwargs)
    has_responses = not payload and _hold_response(args, kwargs)
    if not payload and not has_responses:
        payload = dump_arguments(key, options.method_name, args, kwargs)
    context = request_context.get()
    meta = call_meta(options, context)
    response: DeploymentResponse[Any] | DeploymentResponseGenerator[Any]
    if options.stream:
        call = StreamedCall(site, key, meta, context.deadline, send)
        response = DeploymentResponseGenerator(call)
    else:
        call = Call(site, key, meta, context.deadline, send)
        response = DeploymentResponse(call)
    if has_responses:
        site.run(start_when_resolved, call, key, options.method_name, args, kwargs)
    elif site.is_here:
        call.start(payload)
    else:
        site.loop.call_soon_threadsafe(call.start, payload)
    return response


def _hold_response(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    try:
        return hold_response(args) | (bool(kwargs) and hold_response(kwargs))
    except RecursionError:  # nested too deep to be looked into, or within itself: pickle decides what can be sent
        return False


def call_meta(options: HandleOptions, context: RequestContext) -> CallMeta:
    """What is called, for the request ``context``."""
    return CallMeta(
        options.method_name,
        context.request_id or new_request_id(),
        context.route,
        context.app_name,
        0.0,  # what remains is known when it is sent
        options.stream,
        options.multiplexed_model_id,
        options.session_id,
    )
