/**
 * Where the page is: whose conversation its address names. Links are relative to the page. This
 * module knows nothing of whether there is such a conversation.
 */

const DEFAULT = "default";

/** Read an address' query. */
export function placeOf(search) {
  const query = new URLSearchParams(search);
  return {
    userId: query.get("user_id") || DEFAULT,
    conversationId: query.get("conversation_id") || DEFAULT,
  };
}

/** Make the link to a conversation. */
export function linkTo({ userId, conversationId }) {
  const query = new URLSearchParams();
  if (userId !== DEFAULT) query.set("user_id", userId);
  query.set("conversation_id", conversationId);
  return `?${query}`;
}
