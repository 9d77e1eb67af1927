import { type Rest, RestError, type RoomInfo } from "../net/rest";

/** Rooms that the server named; nobody can make one of such a name. */
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** Joins the room of this id, or makes a public one. It is looked for first, so that neither is tried in vain. */
export async function enterRoom(
  rest: Pick<Rest, "publicRooms" | "createRoom" | "join" | "room">,
  id: string,
  name: string,
): Promise<RoomInfo> {
  const exists = UUID.test(id) || (await rest.publicRooms(id)).items.some((room) => room.id === id);
  let taken: unknown;
  if (!exists) {
    try {
      return await rest.createRoom({ id, kind: "public", name });
    } catch (e) {
      // Somebody was faster, or it is one that is not listed.
      if (!(e instanceof RestError && e.code === "conflict")) throw e;
      taken = e;
    }
  }
  await rest.join(id).catch((e) => {
    throw taken ?? e;
  });
  return rest.room(id);
}
